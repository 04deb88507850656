"""Changes to a network that is already built, ours or foreign: its activations, its norms, reparametrized weights."""

from stabletrain.network.surgery.reparametrization import find_reparametrization as find_reparametrization
from stabletrain.network.surgery.reparametrization import reparametrize_ as reparametrize_
from stabletrain.network.surgery.replacement import replace_activations_ as replace_activations_
from stabletrain.network.surgery.replacement import replace_norms_ as replace_norms_
