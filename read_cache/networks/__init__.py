"""Side networks: what trains. `base.py` is the seam; each kind is one file and one line here."""

from read_cache.networks.base import NETWORKS
from read_cache.networks.ladder import Ladder
from read_cache.networks.layer_probe import LayerProbe
from read_cache.networks.probe import Probe
from read_cache.networks.read import Read
from read_cache.networks.read_matching import ReadMatching
from read_cache.networks.side_tuning import SideTuning

for network in (Read, ReadMatching, Ladder, SideTuning, LayerProbe, Probe):
    NETWORKS[network.kind] = network
