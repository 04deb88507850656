"""Initializations of whole modules: `initialize_`, and one class for each option of `conf/init/`."""

from stabletrain.network.initialization.base import Initialization as Initialization
from stabletrain.network.initialization.base import WeightRule as WeightRule
from stabletrain.network.initialization.branch_scaling import DepthScaled as DepthScaled
from stabletrain.network.initialization.branch_scaling import Fixup as Fixup
from stabletrain.network.initialization.chrono import Chrono as Chrono
from stabletrain.network.initialization.critical import Critical as Critical
from stabletrain.network.initialization.lsuv import LSUV as LSUV
from stabletrain.network.initialization.options import INITIALIZATIONS as INITIALIZATIONS
from stabletrain.network.initialization.options import initialize_ as initialize_
from stabletrain.network.initialization.orthogonal import Identity as Identity
from stabletrain.network.initialization.orthogonal import Orthogonal as Orthogonal
from stabletrain.network.initialization.variance_scaling import Default as Default
from stabletrain.network.initialization.variance_scaling import He as He
from stabletrain.network.initialization.variance_scaling import LeCun as LeCun
from stabletrain.network.initialization.variance_scaling import Normal as Normal
from stabletrain.network.initialization.variance_scaling import Xavier as Xavier
