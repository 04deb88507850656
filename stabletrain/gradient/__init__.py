"""What happens to a gradient between backward and step."""

from stabletrain.gradient.clip import Clip as Clip
from stabletrain.gradient.clip import LayerClip as LayerClip
from stabletrain.gradient.clip import NoClip as NoClip
from stabletrain.gradient.clip import NormClip as NormClip
from stabletrain.gradient.clip import ValueClip as ValueClip
from stabletrain.gradient.clip import clip_gradients_ as clip_gradients_
from stabletrain.gradient.norms import total_norm as total_norm
