"""Live methods, which train with the backbone in the loop, for comparison with side networks.

`base.py` defines their interface; each method is a class in this package and a name in the line below.
"""

from read_cache.methods.adapter import Adapter
from read_cache.methods.base import METHODS
from read_cache.methods.bitfit import Bitfit
from read_cache.methods.full import Full
from read_cache.methods.meft import Meft
from read_cache.methods.peft import Ia3, Lora, Prefix, Prompt
from read_cache.methods.safe import Safe

for method in (Full, Bitfit, Adapter, Lora, Ia3, Prompt, Prefix, Meft, Safe):
    METHODS[method.kind] = method
