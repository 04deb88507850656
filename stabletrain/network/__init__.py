"""Networks and their parts: activations, initializations, norms, residual connections, and the model families."""

from stabletrain.network.initialization import Initialization as Initialization
from stabletrain.network.initialization import initialize_ as initialize_
from stabletrain.network.meanfield import second_moment_gain as second_moment_gain
from stabletrain.network.models import CNN as CNN
from stabletrain.network.models import GRU as GRU
from stabletrain.network.models import LSTM as LSTM
from stabletrain.network.models import MLP as MLP
from stabletrain.network.models import RNN as RNN
from stabletrain.network.models import DenseNet1d as DenseNet1d
from stabletrain.network.models import Parts as Parts
from stabletrain.network.models import ResNet as ResNet
from stabletrain.network.models import Transformer as Transformer
from stabletrain.network.residual import Residual as Residual
from stabletrain.network.surgery import replace_activations_ as replace_activations_
from stabletrain.network.surgery import replace_norms_ as replace_norms_
