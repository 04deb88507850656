"""Rules: functions from observations to findings. Each registers with its kind, as do the remedies beside it."""

from stabletrain.diagnosis.rules import clipping as clipping
from stabletrain.diagnosis.rules import depth as depth
from stabletrain.diagnosis.rules import loss as loss
from stabletrain.diagnosis.rules import mistakes as mistakes
from stabletrain.diagnosis.rules import nonfinite as nonfinite
from stabletrain.diagnosis.rules import rate as rate
from stabletrain.diagnosis.rules import start as start
from stabletrain.diagnosis.rules import time as time
from stabletrain.diagnosis.rules import units as units
