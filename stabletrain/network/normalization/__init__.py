"""Normalization layers for vectors, sequences, and channels with positions."""

from stabletrain.network.normalization.layers import MAX_STEPS as MAX_STEPS
from stabletrain.network.normalization.layers import NORMS as NORMS
from stabletrain.network.normalization.layers import BatchNorm as BatchNorm
from stabletrain.network.normalization.layers import GroupNorm as GroupNorm
from stabletrain.network.normalization.layers import InstanceNorm as InstanceNorm
from stabletrain.network.normalization.layers import LayerNorm as LayerNorm
from stabletrain.network.normalization.layers import Layout as Layout
from stabletrain.network.normalization.layers import NoNorm as NoNorm
from stabletrain.network.normalization.layers import Norm as Norm
from stabletrain.network.normalization.layers import RMSNorm as RMSNorm
from stabletrain.network.normalization.layers import SpectralNorm as SpectralNorm
from stabletrain.network.normalization.layers import WeightNorm as WeightNorm
from stabletrain.network.normalization.layers import build_norm as build_norm
