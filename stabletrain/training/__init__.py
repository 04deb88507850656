"""Training through Lightning: the module, callbacks, loggers, checkpoints. The only room that knows Lightning."""

from stabletrain.training.loggers import MLflowLogger as MLflowLogger
from stabletrain.training.loggers import RecordLogger as RecordLogger
from stabletrain.training.module import TrainingModule as TrainingModule
from stabletrain.training.optimizers import Muon as Muon
from stabletrain.training.schedule import Constant as Constant
from stabletrain.training.schedule import OneCycle as OneCycle
from stabletrain.training.schedule import Plateau as Plateau
from stabletrain.training.schedule import Schedule as Schedule
from stabletrain.training.schedule import StepDecay as StepDecay
from stabletrain.training.schedule import WarmupCosine as WarmupCosine
from stabletrain.training.schedule import WarmupStableDecay as WarmupStableDecay
from stabletrain.training.watch import GradientWatch as GradientWatch
