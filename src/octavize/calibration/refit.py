"""refit(): new weights for an octave network, in closed form, from images without labels."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from octavize.calibration.coupling import stand_in
from octavize.calibration.follows import Follows, trace_calls
from octavize.calibration.rows import (
    Half, NotLinear, halves_of, map_rows, positions, read_rows, run,
)
from octavize.calibration.solve import Problem, Solution, solve
from octavize.calibration.walk import Walk, standing_bytes
from octavize.convert.trace import CONVOLUTIONS, clean_copy
from octavize.data.loaders import images_of
from octavize.nn.conv import OctConv
from octavize.nn.resample import halve
from octavize.nn.tensor import OctTensor

BATCH = 10
ROWS = 2**29
PROJECT = bool(int(os.environ.get("PROJECT", "1")))
RESIDUAL = bool(int(os.environ.get("RESIDUAL", "1")))
STEPS = int(os.environ.get("STEPS", "8"))
RIDGES = tuple(float(r) for r in os.environ.get("RIDGES", "1e-5,1e-4,1e-3,1e-2,1e-1,1").split(","))


def refit(model: nn.Module, images: Iterable[object], *, teacher=None, max_images: int = 256, memory: float = 4.0, progress=None):
    batches = [b for batch in images_of(images, max_images) for b in batch.split(BATCH)]
    place = next(p for p in model.parameters() if p.is_floating_point())
    batches = [b.to(place) for b in batches]
    total = sum(map(len, batches))
    if teacher is None:
        teacher = clean_copy(model)
        for m in teacher.modules():
            if isinstance(m, OctConv):
                m.become_octave(alpha=0.0)
    names = [n for n, m in model.named_modules() if isinstance(m, CONVOLUTIONS)]
    traced = trace_calls(teacher, batches[0][:1], names)
    each = standing_bytes(teacher, batches[0][:1], names)
    print("bytes", each)
    order = list(dict.fromkeys(traced.calls))
    hold = {f.added for f in traced.follows.values() if f.added}
    stops = {n: {0} for n in order}
    walks = [(Walk(model, b, stops, hold=hold), Walk(teacher, b, stops, True, hold=hold)) for b in batches]
    try:
        for name in progress(order) if progress else order:
            follows = traced.follows.get(name, Follows())
            layer = stand_in(model.get_submodule(name))
            gen = torch.Generator().manual_seed(0)
            halves = None
            rows: dict = {}
            for i, (o, v) in enumerate(walks):
                x, y = o.next().x, v.next().y
                if not isinstance(x, OctTensor) and i == 0:
                    if isinstance(layer, OctConv) and layer.alpha:
                        pass
                if halves is None:
                    halves = halves_of(layer, x)
                convs, yo = run(layer, x)
                for h in halves:
                    g, oc, d = h.places.shape
                    size = (yo.low if h.low else yo.high).shape[2:] if isinstance(yo, OctTensor) else yo.shape[2:]
                    n = max(1, int(ROWS / 4 / (g * (d + 3 * oc)) / total))
                    at = positions(size, n, gen)
                    r = rows.setdefault(h.low, ([], [], [], [], []))
                    r[0].append(read_rows(h, convs, at, size))
                    dims = yo.octave_dims if isinstance(yo, OctTensor) else 2
                    # wanted
                    norm = None if follows.norm is None else teacher.get_submodule(follows.norm)
                    s, t = affine(norm, y.shape[1])
                    bounds = follows.bounds if PROJECT else (-math.inf, math.inf)
                    sv = so = None
                    if follows.added and RESIDUAL:
                        sv, so = v.held[follows.added], o.held[follows.added]
                    z = y * s.view(1, -1, *[1] * (y.dim() - 2)) + t.view(1, -1, *[1] * (y.dim() - 2))
                    if sv is not None:
                        z = z + sv
                    z = z.clamp(*bounds)
                    if h.low:
                        z = halve(z, dims)
                    r[1].append(map_rows(z, h.channels, at))
                    if so is not None:
                        if isinstance(so, OctTensor):
                            if isinstance(yo, OctTensor) and so.channel_layout == yo.channel_layout:
                                m = so.low if h.low else so.high
                                r[2].append(map_rows(m, torch.arange(h.channels.numel()).view_as(h.channels), at))
                            else:
                                m = so.to_dense(); m = halve(m, dims) if h.low else m
                                r[2].append(map_rows(m, h.channels, at))
                        else:
                            m = halve(so, dims) if h.low else so
                            r[2].append(map_rows(m, h.channels, at))
                    m = (yo.low if h.low else yo.high) if isinstance(yo, OctTensor) else yo
                    own = torch.arange(h.channels.numel()).view_as(h.channels)
                    r[3].append(map_rows(m, own, at))
                    r[4].append((torch.arange(len(x)) + i * BATCH).remainder(2).repeat_interleave(len(at[0])))
            told = []
            weight = model.get_submodule(name).weight
            bias = model.get_submodule(name).bias
            for h in halves:
                read, wanted, added, made, fold = (torch.cat(p, 0 if k == 4 else 1) if p else None for k, p in enumerate(rows[h.low]))
                constant = bias is not None or follows.norm is not None
                v0 = weight.detach().flatten()[h.places].transpose(1, 2).double()
                if constant:
                    read = torch.cat([read, torch.ones_like(read[..., :1])], 2)
                    b0 = (bias.detach().double()[h.channels] if bias is not None else torch.zeros(h.channels.shape).double())[:, None]
                    v0 = torch.cat([v0, b0], 1)
                err = (read @ v0.float() - made).abs().max() / made.abs().max()
                assert err < 1e-3, (name, err)
                scale, off = (a[h.channels][:, None] for a in affine(None if follows.norm is None else model.get_submodule(follows.norm), made_channels(h, model, name)))
                p = Problem(read, wanted, scale, off, added, follows.bounds if PROJECT else (-math.inf, math.inf), constant, fold)
                sol = solve(p, v0, RIDGES, STEPS)
                with torch.no_grad():
                    new = sol.v[:, :-1] if constant else sol.v
                    weight.view(-1)[h.places] = new.transpose(1, 2).to(weight)
                    if constant:
                        c = sol.v[:, -1]
                        if bias is not None:
                            bias[h.channels] = c.to(bias)
                        else:
                            mean = model.get_submodule(follows.norm).running_mean
                            mean[h.channels] -= c.to(mean)
                told.append(f"{'low' if h.low else 'high'} {tuple(read.shape)} ridge {sol.ridge:g} {sol.before:.4f} → {sol.after:.4f} ({sol.held_out:.4f})")
            print(name, *told, sep="  ", flush=True)
    finally:
        for pair in walks:
            for w in pair:
                w.close()


def made_channels(h, model, name):
    return model.get_submodule(name).out_channels


def affine(norm, channels):
    if norm is None:
        return torch.ones(channels), torch.zeros(channels)
    s = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        s = s * norm.weight
    t = -norm.running_mean * s
    if norm.bias is not None:
        t = t + norm.bias
    return s.detach(), t.detach()
