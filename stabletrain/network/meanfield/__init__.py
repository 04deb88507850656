"""Mean-field theory of deep networks at initialization: variance and gradient layer by layer, the edge of chaos."""

from stabletrain.network.meanfield.edge_of_chaos import find_critical as find_critical
from stabletrain.network.meanfield.gaussian_signal import MeanField as MeanField
from stabletrain.network.meanfield.gaussian_signal import Moments as Moments
from stabletrain.network.meanfield.gaussian_signal import compute_depth_scale as compute_depth_scale
from stabletrain.network.meanfield.gaussian_signal import compute_moments as compute_moments
from stabletrain.network.meanfield.gaussian_signal import find_fixed_point as find_fixed_point
from stabletrain.network.meanfield.gaussian_signal import second_moment as second_moment
from stabletrain.network.meanfield.gaussian_signal import second_moment_gain as second_moment_gain
