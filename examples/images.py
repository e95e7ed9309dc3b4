"""Images: scikit-learn's handwritten digits through a small vision transformer.

python -m examples.images --output DIR
"""

from __future__ import annotations

import torch
import transformers
from sklearn.datasets import load_digits

from examples.domains import Study, options, run

HELD_OUT = 500


def study(seed: int = 0) -> Study:
    """1,797 images of 8 x 8 pixels in patches of 2 x 2: 16 rows an image, and one for the class."""
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16.0
    labels = torch.from_numpy(digits.target).long()
    config = transformers.ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=64, intermediate_size=128,
        num_hidden_layers=6, num_attention_heads=4, num_labels=10,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    training = len(images) - HELD_OUT

    def loss(step: int) -> torch.Tensor:
        drawn = torch.Generator().manual_seed(step)
        chosen = torch.randint(0, training, (64,), generator=drawn)
        found: torch.Tensor = model(pixel_values=images[chosen], labels=labels[chosen]).loss
        return found

    def quality() -> float:
        model.eval()
        with torch.no_grad():
            guessed = model(pixel_values=images[training:]).logits.argmax(-1)
        return float((guessed == labels[training:]).float().mean())

    batches = [{"pixel_values": part} for part in images[training:].split(100)]
    kind = transformers.models.vit.modeling_vit.ViTLayer
    first = next(path for path, module in model.named_modules() if isinstance(module, kind))
    stem = first.removesuffix("0")
    modules = [f"{stem}0:input", *(f"{stem}{n}" for n in range(6)), "vit.layernorm"]
    return Study(model, loss, batches, modules, quality, "accuracy on held-out images")


if __name__ == "__main__":
    given = options(__doc__, steps=300)
    run(study(), given.output, given.steps, given.rows)
