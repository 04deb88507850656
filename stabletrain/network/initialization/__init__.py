"""Initializations of whole modules, one class for each option of `conf/init/`."""

from stabletrain.network.initialization.base import Initialization as Initialization
from stabletrain.network.initialization.options import INITIALIZATIONS as INITIALIZATIONS
from stabletrain.network.initialization.options import LSUV as LSUV
from stabletrain.network.initialization.options import Chrono as Chrono
from stabletrain.network.initialization.options import Critical as Critical
from stabletrain.network.initialization.options import Default as Default
from stabletrain.network.initialization.options import DepthScaled as DepthScaled
from stabletrain.network.initialization.options import Fixup as Fixup
from stabletrain.network.initialization.options import He as He
from stabletrain.network.initialization.options import Identity as Identity
from stabletrain.network.initialization.options import LeCun as LeCun
from stabletrain.network.initialization.options import Normal as Normal
from stabletrain.network.initialization.options import Orthogonal as Orthogonal
from stabletrain.network.initialization.options import Xavier as Xavier
from stabletrain.network.initialization.options import initialize_ as initialize_
