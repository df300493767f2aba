"""Octave convolution for any PaddlePaddle CNN, without torch.

Importing this changes nothing in the process. The first octave layer or map calls `enable`, which lets
Paddle's functions take octave maps; `disable` undoes it.
"""

from octavize.errors import DenseFallbackWarning as DenseFallbackWarning
from octavize.errors import InputError as InputError
from octavize.paddle import rules as rules
from octavize.paddle import weights as weights
from octavize.paddle.article import from_article as from_article
from octavize.paddle.conv import OctConv1D as OctConv1D
from octavize.paddle.conv import OctConv2D as OctConv2D
from octavize.paddle.conv import OctConv3D as OctConv3D
from octavize.paddle.conv_transpose import OctConv1DTranspose as OctConv1DTranspose
from octavize.paddle.conv_transpose import OctConv2DTranspose as OctConv2DTranspose
from octavize.paddle.conv_transpose import OctConv3DTranspose as OctConv3DTranspose
from octavize.paddle.convert import octavize as octavize
from octavize.paddle.costs import flops_ops as flops_ops
from octavize.paddle.dispatch import oct_rule as oct_rule
from octavize.paddle.freezing import freeze as freeze
from octavize.paddle.planner import plan as plan
from octavize.paddle.predictor import predictor_config as predictor_config
from octavize.paddle.recomputing import recompute as recompute
from octavize.paddle.saving import save as save
from octavize.paddle.storage import load_converted as load_converted
from octavize.paddle.swap import oct_handler as oct_handler
from octavize.paddle.tensor import OctTensor as OctTensor
from octavize.paddle.wrapping import disable as disable
from octavize.paddle.wrapping import enable as enable
from octavize.paddle.zoo import create_model as create_model
from octavize.paddle.zoo import list_models as list_models
from octavize.plans.plan import Decision as Decision
from octavize.plans.plan import Plan as Plan
