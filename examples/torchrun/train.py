"""Distributed training that does not mention trackers: each rank logs its loss, rank 0 the mean of all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard.writer import SummaryWriter

STEPS = 50


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # each rank has data of its own
    model = DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    weights = torch.arange(8.0)
    with SummaryWriter("logs") as writer:
        for step in range(STEPS):
            inputs = torch.randn(64, 8)
            loss = (model(inputs).squeeze(1) - inputs @ weights).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss/rank", loss.item(), step)
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            if rank == 0:
                writer.add_scalar("loss/mean", mean.item() / dist.get_world_size(), step)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
