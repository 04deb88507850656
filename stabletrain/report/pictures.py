"""The pictures of a run, each a PNG file in memory."""

from stabletrain.report.clipping import draw_clipping as draw_clipping
from stabletrain.report.curves import draw_curves as draw_curves
from stabletrain.report.heatmap import draw_heatmap as draw_heatmap
from stabletrain.report.ridges import draw_ridges as draw_ridges
from stabletrain.report.ridges import ridge_limits as ridge_limits
from stabletrain.report.time_surface import draw_time_surface as draw_time_surface
from stabletrain.report.update_ratios import draw_update_ratios as draw_update_ratios
