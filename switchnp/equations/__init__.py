"""The papers in NumPy: one function, one equation. Needs nothing but NumPy.

Fedus, Zoph, Shazeer, "Switch Transformers", arXiv 2101.03961, has seven numbered equations:

    (1) router_probs        routing.py      p_i(x) = exp(h_i) / sum_j exp(h_j)
    (2) mixture             experts.py      y = p_i(x) E_i(x)
    (3) expert_capacity     capacity.py     C = T / N * capacity factor
    (4) load_balance        losses.py       loss = N sum_i f_i P_i
    (5) expert_share        losses.py       f_i = 1/T sum_x [argmax p(x) = i]
    (6) mean_probs          losses.py       P_i = 1/T sum_x p_i(x)
    (7) dispatch            capacity.py     x_ecd = sum_t seat_tec x_td

An array's name ends in its axes: t token, s token looked at, d model, h head, k head width, f feed-forward, e expert,
c queue slot, v vocabulary, r distance bucket, n first, second, ... choice,
g group of tokens, b sentence, 1 an axis kept at length one. Capitals are their lengths.
"""

from . import (
    attention,
    capacity,
    choices,
    distillation,
    dropout,
    embedding,
    experts,
    exploration,
    feedforward,
    groups,
    initial,
    losses,
    norm,
    position,
    queues,
    routing,
)
from .attention import *
from .capacity import *
from .choices import *
from .distillation import *
from .dropout import *
from .embedding import *
from .experts import *
from .exploration import *
from .feedforward import *
from .groups import *
from .initial import *
from .losses import *
from .norm import *
from .position import *
from .queues import *
from .routing import *

ROOMS = (
    *(embedding, position, norm, attention, feedforward, routing, capacity, experts, losses),
    *(exploration, choices, queues, groups, initial, dropout, distillation),
)
EQUATIONS = {
    1: router_probs,
    2: mixture,
    3: expert_capacity,
    4: load_balance,
    5: expert_share,
    6: mean_probs,
    7: dispatch,
}
__all__ = [name for room in ROOMS for name in room.__all__]
