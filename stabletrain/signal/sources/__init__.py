"""Everything that `Watch` measures besides the gradient: one class per signal, listed in `SOURCES`."""

from stabletrain.signal.sources.output_statistics import OutputStatistics
from stabletrain.signal.sources.parameter_statistics import Clip, Moment, Update, Weight
from stabletrain.signal.sources.source import Source
from stabletrain.signal.sources.unit_activity import UnitActivity

# In the order in which their signals are recorded.
SOURCES: tuple[type[Source], ...] = (OutputStatistics, Weight, Clip, Update, Moment, UnitActivity)
OF_STEP = tuple(signal for source in SOURCES if source.needs_optimizer for signal in source.signals)
