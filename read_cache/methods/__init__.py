"""Methods that need the backbone in the training loop: what side networks are compared with.

`base.py` is the seam; each method is one file and one line here.
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
