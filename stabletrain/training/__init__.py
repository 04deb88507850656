"""Training with Lightning: the module, callbacks, loggers and checkpoints. The only package that imports Lightning."""

from stabletrain.training.callbacks.gradient_watch import GradientWatch as GradientWatch
from stabletrain.training.loggers import MLflowLogger as MLflowLogger
from stabletrain.training.loggers import RecordLogger as RecordLogger
from stabletrain.training.module import TrainingModule as TrainingModule
from stabletrain.training.optimization.optimizers import Muon as Muon
from stabletrain.training.optimization.schedule import Constant as Constant
from stabletrain.training.optimization.schedule import OneCycle as OneCycle
from stabletrain.training.optimization.schedule import Plateau as Plateau
from stabletrain.training.optimization.schedule import Schedule as Schedule
from stabletrain.training.optimization.schedule import StepDecay as StepDecay
from stabletrain.training.optimization.schedule import WarmupCosine as WarmupCosine
from stabletrain.training.optimization.schedule import WarmupStableDecay as WarmupStableDecay
