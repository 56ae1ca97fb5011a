"""Methods that need the backbone in the training loop: what side networks are compared with.

`base.py` is the seam; each method is one file and one line here.
"""

from read_cache.methods.base import METHODS
from read_cache.methods.full import Full
from read_cache.methods.lora import Lora
from read_cache.methods.meft import Meft

for method in (Full, Lora, Meft):
    METHODS[method.kind] = method
