"""Parts (activation, initialization, normalization, residual) and the families of networks made of them."""

from stabletrain.network.cnn import CNN as CNN
from stabletrain.network.densenet import DenseNet1d as DenseNet1d
from stabletrain.network.initialization import Initialization as Initialization
from stabletrain.network.initialization import initialize_ as initialize_
from stabletrain.network.meanfield import second_moment_gain as second_moment_gain
from stabletrain.network.mlp import MLP as MLP
from stabletrain.network.parts import Parts as Parts
from stabletrain.network.recurrent import GRU as GRU
from stabletrain.network.recurrent import LSTM as LSTM
from stabletrain.network.recurrent import RNN as RNN
from stabletrain.network.replacement import replace_activations_ as replace_activations_
from stabletrain.network.replacement import replace_norms_ as replace_norms_
from stabletrain.network.residual import Residual as Residual
from stabletrain.network.resnet import ResNet as ResNet
from stabletrain.network.transformer import Transformer as Transformer
