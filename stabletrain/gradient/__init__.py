"""What happens to a gradient between the backward pass and the optimizer's step."""

# `none` to `layer` come first in `CLIPS`, which is in the order of definition.
from stabletrain.gradient.clip import LayerClip as LayerClip
from stabletrain.gradient.clip import NoClip as NoClip
from stabletrain.gradient.clip import NormClip as NormClip
from stabletrain.gradient.clip import ValueClip as ValueClip
from stabletrain.gradient.clip import clip_by_layer_ as clip_by_layer_
from stabletrain.gradient.clip import clip_by_norm_ as clip_by_norm_
from stabletrain.gradient.clip import clip_by_value_ as clip_by_value_

# isort: split
from stabletrain.gradient.adaptive import AdaptiveClip as AdaptiveClip
from stabletrain.gradient.adaptive import clip_adaptively_ as clip_adaptively_
from stabletrain.gradient.chain import Chain as Chain
from stabletrain.gradient.clip_base import CLIPS as CLIPS
from stabletrain.gradient.clip_base import Clip as Clip
from stabletrain.gradient.device_clip import DeviceClip as DeviceClip
from stabletrain.gradient.device_clip import Norm as Norm
from stabletrain.gradient.device_clip import clip_and_measure_ as clip_and_measure_
from stabletrain.gradient.norms import total_norm as total_norm
from stabletrain.gradient.options import clip_gradients_ as clip_gradients_
from stabletrain.gradient.statistical import PercentileClip as PercentileClip
from stabletrain.gradient.statistical import ZScoreClip as ZScoreClip
