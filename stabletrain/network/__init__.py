"""Parts (activation, initialization, normalization, residual) and the families of networks made of them."""

from stabletrain.network.initialization import Initialization as Initialization
from stabletrain.network.initialization import initialize_ as initialize_
from stabletrain.network.meanfield.gaussian_signal import second_moment_gain as second_moment_gain
from stabletrain.network.models.cnn import CNN as CNN
from stabletrain.network.models.densenet import DenseNet1d as DenseNet1d
from stabletrain.network.models.mlp import MLP as MLP
from stabletrain.network.models.model_parts import Parts as Parts
from stabletrain.network.models.recurrent import GRU as GRU
from stabletrain.network.models.recurrent import LSTM as LSTM
from stabletrain.network.models.recurrent import RNN as RNN
from stabletrain.network.models.resnet import ResNet as ResNet
from stabletrain.network.models.transformer import Transformer as Transformer
from stabletrain.network.residual import Residual as Residual
from stabletrain.network.surgery.replacement import replace_activations_ as replace_activations_
from stabletrain.network.surgery.replacement import replace_norms_ as replace_norms_
