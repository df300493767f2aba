"""Converting a trained network step by step: what each step does to its test accuracy.

pip install 'octavize[experiment]'
python examples/gallery/convert.py
"""

import torch
from matplotlib.figure import Figure
from shared import WIDTH, destination, save
from textures import accuracy, fit, textures, trained

from octavize import Plan, calibrate, octavize, plan, reestimate_norms, refit
from octavize.bench.profile import count_macs

EXAMPLE = (1, 1, 32, 32)

vanilla = trained(alpha=0.0)
train, test = textures()
torch.manual_seed(0)
images = train[0][torch.randperm(len(train[0]))[:1000]].split(100)

# A narrow network of 16 channels becomes octave only with `min_low=0`; trained weights keep their strides.
last = plan(vanilla, 0.5, downsample="stride", min_low=0, example=EXAMPLE)
best = calibrate(vanilla, images, alpha=0.5, downsample="stride", min_low=0, example=EXAMPLE)
steps: list[tuple[str, float]] = [("the trained network", accuracy(vanilla, test))]


def converted(decided: Plan, name: str) -> torch.nn.Module:
    """The octave network as it is at once, and with batch norms that were measured anew."""
    octave = octavize(vanilla, decided)
    steps.append((name, accuracy(octave, test)))
    measured = octavize(vanilla, decided)
    reestimate_norms(measured, images)
    steps.append(("… batch norms measured anew", accuracy(measured, test)))
    return octave


converted(last, "octave, the last channels are low")
octave = converted(best, "octave, calibrated channels are low")
refit(octave, images, epochs=0, max_images=400)
steps.append(("… refitted on 400 images, no labels", accuracy(octave, test)))
fit(octave, train, epochs=1, rate=0.02)
steps.append(("… and trained for an epoch", accuracy(octave, test)))
for name, found in steps:
    print(f"{name}: {found:.1%}")

share = count_macs(octave, EXAMPLE) / count_macs(vanilla, EXAMPLE)
figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
axes = figure.subplots()
values = [100 * found for _, found in steps]
bars = axes.barh(range(len(steps)), values, color=["#475569", *["#f4a261"] * 2, *["#e8590c"] * 4])
axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3, fontsize=9)
axes.set_yticks(range(len(steps)), [name for name, _ in steps], fontsize=9)
axes.invert_yaxis()
axes.set_xlim(0, 115)
axes.set_xticks(range(0, 101, 25))
axes.set_xlabel("test accuracy, %")
axes.set_title(f"α = 0.5: {share:.2f} of the arithmetic", fontsize=10)
axes.spines[["top", "right"]].set_visible(False)
save(figure, destination())
