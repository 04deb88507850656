"""Pictures of a run; each function returns the bytes of a PNG file."""

from stabletrain.report.pictures.clip_norms import draw_clipping as draw_clipping
from stabletrain.report.pictures.curves import draw_curves as draw_curves
from stabletrain.report.pictures.heatmap import draw_heatmap as draw_heatmap
from stabletrain.report.pictures.ridges import draw_ridges as draw_ridges
from stabletrain.report.pictures.ridges import ridge_limits as ridge_limits
from stabletrain.report.pictures.time_surface import draw_time_surface as draw_time_surface
from stabletrain.report.pictures.update_ratios import draw_update_ratios as draw_update_ratios
