"""The rules by which Paddle's functions act on octave maps; importing this package registers all of them."""

from octavize.paddle.rules import channels as channels
from octavize.paddle.rules import elementwise as elementwise
from octavize.paddle.rules import grid as grid
from octavize.paddle.rules import norm as norm
from octavize.paddle.rules import spatial as spatial
