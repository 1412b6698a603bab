"""The configurations of a MONAI Bundle: ``metadata.json`` and ``inference.json``.

``inference.json`` repeats :mod:`cardiac.preprocessing` with MONAI's transforms. They lack only the
choice of the standard view: ``Orientationd`` goes by the patient axis closest to each array axis,
which can be the wrong one for oblique short-axis slices, and it finds no view at all in headers
that lie along the axes. So the affine is first replaced by that of the view, a signed permutation
in plane, chosen as ``in_plane_orientation`` chooses it. Then ``Orientationd`` turns the array, and
at the end the file's own affine is restored.
"""

from importlib.metadata import version
from typing import Any

from cardiac.preprocessing import CLIP_PERCENTILES
from cardiac.view import IMAGE_DOWN, IMAGE_RIGHT
from common.labels import NUM_CLASSES, STRUCTURES
from common.model import DOWNSAMPLING
from results.export.exported_model import ExportedModel

VERSION = "0.1.0"
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
"""URL of MONAI's schema for ``metadata.json``."""
CHANNELS = {str(label): name for label, name in enumerate(("background", *STRUCTURES))}
INTENDED_USE = "Research only. Not a medical device, not for diagnosis or treatment."
PAPER = "He et al., Rate-My-LoRA, ISBI 2025, https://arxiv.org/abs/2501.03223"


def metadata(source: ExportedModel) -> dict[str, Any]:
    """Return the content of ``metadata.json``, which describes the network."""
    made_of = ", ".join(f"{key} {value}" for key, value in source.notes.items())
    side = [f"{DOWNSAMPLING}*(n+1)", f"{DOWNSAMPLING}*(p+1)"]
    tensor = {
        "type": "image",
        "modality": "MR",
        "spatial_shape": side,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
    }
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"exported from {made_of}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel")},
        "supported_apps": {},
        "name": "Rate-My-LoRA, short-axis cardiac MRI",
        "task": "Segmentation of LV, myocardium and RV in short-axis cine MRI",
        "description": (
            "A 2-D U-Net on every slice of a volume; pretrained, then adapted to several sites by "
            "federated LoRA, the adapter folded into the weights. See docs/README.md."
        ),
        "authors": "Whoever exported this bundle; made with Rate-My-LoRA on Flower",
        "copyright": "Of whoever exported this bundle; the training data's licences apply",
        "intended_use": INTENDED_USE,
        "references": [PAPER],
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "format": "magnitude",
                    "num_channels": 1,
                    "channel_def": {"0": "slice, mean 0 and deviation 1 over its volume"},
                }
            },
            "outputs": {
                "pred": {
                    **tensor,
                    "format": "labels",
                    "num_channels": NUM_CLASSES,
                    "channel_def": CHANNELS,
                }
            },
        },
    }


def inference(source: ExportedModel) -> dict[str, Any]:
    """Return the content of ``inference.json``, which labels every NIfTI file in ``dataset_dir``.

    ``preprocessing``, ``network``, ``inferer`` and ``postprocessing`` have the names under which
    MONAI Label and MONAI Deploy look for them. ``run`` does without the package ignite.
    """
    view = [IMAGE_RIGHT.tolist(), IMAGE_DOWN.tolist()]
    return {
        "imports": ["$import glob", "$import torch", "$import monai"],
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
        "affine_axes": source.config.data.affine_axes,
        # rows: right and down in the view; columns: patient axes as the affine holds them
        "view": (
            f"$torch.tensor({view}, dtype=torch.float64)"
            " * torch.tensor([1, 1, 1] if @affine_axes == 'LPS' else [-1, -1, 1])"
        ),
        # (2, 2): cosines of the first two array axes with the view's
        "in_plane": (
            "$lambda affine: torch.matmul("
            "@view, torch.nn.functional.normalize(affine[:3, :2].double(), dim=0))"
        ),
        "signed": (
            "$lambda c: torch.where(c < 0, -1.0, 1.0) * (torch.eye(2) if c.abs().trace()"
            " >= c.abs().flip(1).trace() else torch.eye(2).flip(1))"
        ),
        "view_affine": (
            "$lambda affine: torch.block_diag(@signed(@in_plane(affine)), torch.eye(2))"
            " * torch.cat([affine[:3, :3].norm(dim=0), torch.ones(1)])"
        ),
        "network_def": _network(source),
        "network": "$@network_def.to(@device).eval().requires_grad_(False)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(source)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "inferer": {
            "_target_": "SliceInferer",
            "roi_size": [-1, -1],  # whole slices
            "spatial_dim": 2,
            "sw_batch_size": 8,
        },
        "segment": {
            "_target_": "Lambdad",
            "keys": "image",
            "func": "$lambda image: @inferer(image[None].to(@device), @network)[0]",
            "overwrite": "pred",
            "track_meta": False,
        },
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing()},
        "segmented": {
            "_target_": "Dataset",
            "data": "@dataset",
            "transform": {"_target_": "Compose", "transforms": ["@segment", "@postprocessing"]},
        },
        "initialize": [
            "$@network.load_state_dict("
            "torch.load(@ckpt_path, map_location=@device, weights_only=True))"
        ],
        "run": ["$[None for _ in @segmented]"],
    }


def _network(source: ExportedModel) -> dict[str, Any]:
    """Return the network of :func:`common.model.build_unet` as a configuration."""
    return {
        "_target_": "BasicUNet",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": NUM_CLASSES,
        "features": list(source.config.model.channels()),
        "norm": ["instance", {"affine": True}],
    }


def _on_image(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": name, "keys": "image", **arguments}


def _with_affine(name: str, affine: str) -> str:
    """Return an expression that gives an image another affine."""
    return (
        f"$lambda {name}: monai.data.MetaTensor({name}, meta={{**{name}.meta, 'affine': {affine}}})"
    )


def _preprocessing(source: ExportedModel) -> list[dict[str, Any]]:
    low, high = CLIP_PERCENTILES
    side, spacing = DOWNSAMPLING, source.config.data.spacing_mm
    padding = {"mode": "edge", "method": "end"}
    return [
        _on_image("LoadImaged"),
        _on_image("EnsureChannelFirstd"),
        _on_image("Lambdad", func=_with_affine("image", "@view_affine(image.affine)")),
        # of the view's axes R is right, A is down: (1, i, j, k) -> (1, h, w, z)
        _on_image("Orientationd", axcodes="ARS", labels=None),
        _on_image(
            "ScaleIntensityRangePercentilesd", lower=low, upper=high, b_min=0, b_max=1, clip=True
        ),
        _on_image("NormalizeIntensityd"),
        _on_image(
            "Spacingd",
            pixdim=[spacing, spacing, -1],  # -1: as it is
            mode="bilinear",
            padding_mode="border",
            scale_extent=True,
            align_corners=True,
        ),
        _on_image("SpatialPadd", spatial_size=[2 * side, 2 * side, -1], **padding),
        _on_image("DivisiblePadd", k=[side, side, 1], **padding),
    ]


def _postprocessing() -> list[dict[str, Any]]:
    return [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "orig_keys": "image",
            "transform": "@preprocessing",
            "nearest_interp": False,  # probabilities, not labels
        },
        {
            "_target_": "Lambdad",
            "keys": "pred",
            "func": _with_affine("label", "label.meta['original_affine']"),
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$'uint8'",
            "separate_folder": False,
            "resample": False,
        },
    ]
