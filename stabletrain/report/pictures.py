"""The pictures of a run, each a PNG file in memory."""

from stabletrain.report.curves import draw_curves as draw_curves
from stabletrain.report.heatmap import draw_heatmap as draw_heatmap
from stabletrain.report.ridges import draw_ridges as draw_ridges
from stabletrain.report.ridges import ridge_limits as ridge_limits
