"""Data sets whose numbers are known: small, made or read on the spot, the same on every machine that runs them."""

from stabletrain.data.base import Data as Data
from stabletrain.data.digits import Digits as Digits
from stabletrain.data.sequences import Adding as Adding
from stabletrain.data.sequences import TemporalOrder as TemporalOrder
from stabletrain.data.sequences import adding_problem as adding_problem
from stabletrain.data.sequences import temporal_order_problem as temporal_order_problem
from stabletrain.data.table import Table as Table

__all__ = ["Adding", "Data", "Digits", "Table", "TemporalOrder", "adding_problem", "temporal_order_problem"]
