"""Train a model of one's own on curated samples, and go on after a stop with what is left.

python examples/train_own_loop.py out state.pt
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import twinreel

STEPS = 4
"""Of each call; the next call goes on from there."""


def main(out: str, state_file: str) -> None:
    """Fit the loudness of a clip's sound from the mean colour of its frames."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = twinreel.CuratedSamples(out).loader(batch_size=2, num_workers=1)
    path, step = Path(state_file), 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["data"])
        step = state["step"]
    last = step + STEPS
    while step < last:
        for batch in loader:
            colour = batch["frames"].float().mean(dim=(1, 3, 4)) / 255.0
            level = batch["audio"].square().mean(dim=1, keepdim=True).sqrt()
            loss = (model(colour) - level).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            print(f"step {step}: loss {loss.item():.4f}, {' '.join(batch['sample_id'])}")
            if step == last:
                break
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "data": loader.state_dict(),
            "step": step,
        },
        path,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
