"""Train a detector on labelled photos: data.root=VOC2007 weights=GOOGLENET out=DIR."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
# Before torch loads: idle OpenMP threads must not spin on cores that other threads need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from dataclasses import asdict

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from detect.allocator import keep_freed_memory
from detect.checkpoint import Checkpoint, file_digest, save_checkpoint
from detect.engine import check_precision
from detect.heads import RegionHead
from detect.settings import TrainConfig
from detect.shared_trunk import SharedTrunk
from detect.training import RegionTrainer
from detect.training_cache import TrainingCache
from detect.training_log import TrainingLog
from tools.command_line import CONFIGS, refusing, run
from tools.progress import progress

# Of the data's settings, what a checkpoint records: not where a machine keeps it.
KEPT = ["_target_", "split"]


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train")
def main(config: DictConfig) -> None:
    """Prepare the photos, train, and write the checkpoint."""
    with refusing("train", config):
        train(config)


def train(config: DictConfig) -> None:
    """Build the parts from the settings and let them train."""
    keep_freed_memory()
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, TrainConfig)
    records = instantiate(config.data, _convert_="all")
    class_names = tuple(config.data.class_names)
    device = torch.device(settings.device)
    threads = settings.threads or os.cpu_count() or 1
    recipe = {
        "data": OmegaConf.to_container(OmegaConf.masked_copy(config.data, KEPT)),
        "proposer": OmegaConf.to_container(config.proposer),
        "weights_sha256": file_digest(settings.weights),
        "training": asdict(settings.training),
    }

    trunk = SharedTrunk.from_imagenet(settings.weights, settings.shared).to(device)
    torch.manual_seed(settings.training.seed)
    head = RegionHead(len(class_names)).to(device)
    proposer = instantiate(config.proposer, _convert_="all")
    key = {name: recipe[name] for name in ("weights_sha256", "proposer")}
    cache = TrainingCache(Path(settings.cache), trunk, proposer, key)

    missing = cache.missing(records)
    gigabytes = cache.expected_bytes(records) / 1e9
    print(
        f"{len(records)} photos, {len(missing)} to prepare in {cache.folder} ({gigabytes:.1f} GB)"
    )
    with progress(len(missing), "photos") as bar:
        for error in cache.prepare_all(missing, threads, bar.update):
            print(f"left out: {error}")
    lost = {record.name for record in cache.missing(records)}
    records = [record for record in records if record.name not in lost]
    recipe["num_photos"] = len(records)

    trainer = RegionTrainer(
        trunk, head, cache=cache, records=records, config=settings.training, threads=threads
    )
    log = TrainingLog(Path(settings.out), recipe, save_minutes=settings.save_minutes)
    with (
        log.resume(trainer),
        progress(settings.training.steps, "steps", initial=trainer.next_step) as bar,
    ):
        for stats in log.steps():
            bar.set_postfix(loss=f"{stats.class_loss:.3f}", box=f"{stats.box_loss:.3f}")
            bar.update()
    trainer.finish()
    target = Path(settings.out) / "checkpoint.safetensors"
    checkpoint = Checkpoint(
        trunk.network,
        head,
        class_names,
        trunk.preprocessing,
        shared=settings.shared,
        training=recipe,
    )
    checkpoint.precision_check = check_precision(checkpoint, cache.regions_of(records[:16], 100))
    print(f"bfloat16 against float32: {checkpoint.precision_check}")
    save_checkpoint(target, checkpoint)
    print(f"checkpoint: {target}")


if __name__ == "__main__":
    run("train", main)
