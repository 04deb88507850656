"""Residual connections: ways to join the output of a layer (the branch) with its input (the skip)."""

from stabletrain.network.residual.joins import AddResidual as AddResidual
from stabletrain.network.residual.joins import Branch as Branch
from stabletrain.network.residual.joins import DeepNormResidual as DeepNormResidual
from stabletrain.network.residual.joins import DenseResidual as DenseResidual
from stabletrain.network.residual.joins import HighwayResidual as HighwayResidual
from stabletrain.network.residual.joins import LayerScaleResidual as LayerScaleResidual
from stabletrain.network.residual.joins import NoResidual as NoResidual
from stabletrain.network.residual.joins import Residual as Residual
from stabletrain.network.residual.joins import ReZeroResidual as ReZeroResidual
from stabletrain.network.residual.joins import ScaledResidual as ScaledResidual
from stabletrain.network.residual.joins import build_residual as build_residual
from stabletrain.network.residual.joins import find_branches as find_branches
from stabletrain.network.residual.joins import fit_residuals_ as fit_residuals_
from stabletrain.network.residual.joins import names_branches as names_branches
