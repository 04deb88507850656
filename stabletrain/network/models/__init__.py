"""The model families."""

from stabletrain.network.models.cnn import CNN as CNN
from stabletrain.network.models.densenet import DenseNet1d as DenseNet1d
from stabletrain.network.models.mlp import MLP as MLP
from stabletrain.network.models.model_parts import Parts as Parts
from stabletrain.network.models.recurrent import GRU as GRU
from stabletrain.network.models.recurrent import LSTM as LSTM
from stabletrain.network.models.recurrent import RNN as RNN
from stabletrain.network.models.resnet import ResNet as ResNet
from stabletrain.network.models.transformer import Transformer as Transformer
