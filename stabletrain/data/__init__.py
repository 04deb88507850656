"""Small, reproducible data sets: generated, shipped with a package or read from a file, identical on every machine."""

from stabletrain.data.base import Data as Data
from stabletrain.data.copying import Copying as Copying
from stabletrain.data.copying import copying_problem as copying_problem
from stabletrain.data.dataset import wrap_dataset as wrap_dataset
from stabletrain.data.digits import Digits as Digits
from stabletrain.data.lazy import LazySplit as LazySplit
from stabletrain.data.mnist1d import Mnist1d as Mnist1d
from stabletrain.data.mnist_small import MnistSmall as MnistSmall
from stabletrain.data.planar import Blobs as Blobs
from stabletrain.data.planar import Circles as Circles
from stabletrain.data.sequences import Adding as Adding
from stabletrain.data.sequences import TemporalOrder as TemporalOrder
from stabletrain.data.sequences import adding_problem as adding_problem
from stabletrain.data.sequences import temporal_order_problem as temporal_order_problem
from stabletrain.data.tables.openml import OpenML as OpenML
from stabletrain.data.tables.table import Table as Table
from stabletrain.data.text import Text as Text
from stabletrain.data.validation import check_data as check_data
