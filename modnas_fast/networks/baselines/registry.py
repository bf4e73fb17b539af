"""The networks that MoD-NAS compares with, and those that one would pick today, with what is published of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.networks.baselines import cbdnet, danet, dncnn, dpdnn, ecae, n3net
from modnas_fast.networks.baselines.bm3d import BM3D
from modnas_fast.networks.baselines.drunet import DRUNet
from modnas_fast.networks.baselines.ffdnet import FFDNet
from modnas_fast.networks.baselines.focnet import FOCNet
from modnas_fast.networks.baselines.hinas import HiNAS
from modnas_fast.networks.baselines.memnet import MemNet
from modnas_fast.networks.baselines.nafnet import NAFNet
from modnas_fast.networks.baselines.rdn import RDN
from modnas_fast.networks.baselines.scunet import SCUNet
from modnas_fast.networks.baselines.tnrd import TNRD
from modnas_fast.networks.baselines.vdn import VDN

TABLE_2 = "MoD-NAS (arXiv 2104.02525), Table 2"
TABLE_4 = "MoD-NAS (arXiv 2104.02525), Table 4"
RESTORMER = "S. W. Zamir et al., “Restormer”, CVPR 2022, its table of gray denoising"

Levels = tuple[float | None, float | None, float | None]  # at σ = 15, 25, 50


@dataclass(frozen=True)
class Baseline:
    """A network, and what is published of it.

    Attributes:
        name: as the command line takes it.
        build: image channels → a freshly initialised module.
        paper: authors, title, venue and year.
        noise: "none": the module is called with the image alone; "sigma": with the image and σ on the 0–255 scale.
        channels: image channels it has versions for, 1 gray, 3 RGB; the first is what published figures are of.
        multiple: sides are padded to multiples of this.
        params_k: published parameters in thousands.
        macs_g: published multiply-accumulates at 48×48 in 10⁹.
        counts_from: who published these counts.
        psnr: test set → dB at σ = 15, 25, 50, gray.
        psnr_from: who published these.
        note: by how much our count differs from the published one and why; what else to know.
        author_keys: (pattern, replacement) pairs that turn a published file's tensor names into ours; what becomes ""
            is left out.
        from_authors: for files that need more: their tensors and the channels → a module and the tensors in its names.
    """

    name: str
    build: Callable[[int], nn.Module]
    paper: str
    noise: Literal["none", "sigma"] = "none"
    channels: tuple[int, ...] = (1,)
    multiple: int = 1
    params_k: float | None = None
    macs_g: float | None = None
    counts_from: str = ""
    psnr: Mapping[str, Levels] = field(default_factory=dict)
    psnr_from: str = ""
    note: str = ""
    author_keys: tuple[tuple[str, str], ...] = ()
    from_authors: Callable[[Mapping[str, Tensor], int], tuple[nn.Module, dict[str, Tensor]]] | None = None


def find(name: str, channels_in: int) -> Baseline:
    """The baseline of this name.

    Raises:
        ModnasError: an unknown name, or channels that it has no version for.
    """
    if name not in BASELINES:
        raise ModnasError(f"unknown baseline {name!r}; known: {', '.join(BASELINES)}")
    baseline = BASELINES[name]
    if channels_in not in baseline.channels:
        raise ModnasError(f"{name} is for {_COLOURS[baseline.channels]} images, not for {channels_in} channels")
    return baseline


def _table_2(set12: Levels, bsd68: Levels, urban100: Levels) -> Mapping[str, Levels]:
    return MappingProxyType({"Set12": set12, "BSD68": bsd68, "Urban100": urban100})


_COLOURS = {(1,): "gray", (3,): "RGB", (1, 3): "gray and RGB", (3, 1): "RGB and gray"}

_ALL = (
    Baseline(
        "bm3d",
        BM3D,
        "K. Dabov, A. Foi, V. Katkovnik, K. Egiazarian, “Image Denoising by Sparse 3-D Transform-Domain Collaborative "
        "Filtering”, IEEE TIP 2007",
        noise="sigma",
        channels=(1, 3),
        psnr=_table_2((32.37, 29.97, 26.72), (31.07, 28.57, 25.62), (32.35, 29.70, 25.95)),
        psnr_from=TABLE_2,
        note="no network; through the package `bm3d`, extra `baselines`, free for non-commercial use",
    ),
    Baseline(
        "tnrd",
        TNRD,
        "Y. Chen, T. Pock, “Trainable Nonlinear Reaction Diffusion”, IEEE TPAMI 2017",
        psnr=_table_2((32.50, 30.06, 26.81), (31.42, 28.92, 25.97), (31.86, 29.25, 25.88)),
        psnr_from=TABLE_2,
        note="five steps of 7×7 filters; influence functions, 15 k exponentials a pixel, are not in the MACs",
    ),
    Baseline(
        "dncnn",
        dncnn.DnCNN,
        "K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang, “Beyond a Gaussian Denoiser”, IEEE TIP 2017",
        channels=(1, 3),
        params_k=556,
        macs_g=1.28,
        counts_from=TABLE_2,
        psnr=_table_2((32.86, 30.44, 27.18), (31.73, 29.23, 26.23), (32.68, 29.97, 26.28)),
        psnr_from=TABLE_2,
        note="17 layers with batch norm; files with folded norms or 20 layers load as they are",
        from_authors=dncnn.from_authors,
    ),
    Baseline(
        "n3net",
        n3net.N3Net,
        "T. Plötz, S. Roth, “Neural Nearest Neighbors Networks”, NeurIPS 2018",
        params_k=706,
        macs_g=1.62,
        counts_from=TABLE_2,
        psnr=_table_2((None, 30.55, 27.43), (None, 29.30, 26.39), (None, 30.19, 26.82)),
        psnr_from=TABLE_2,
        note="5 % more MACs: the published ones are those of convolutions, without distances and weighted sums",
        author_keys=n3net.AUTHORS_KEYS,
    ),
    Baseline(
        "memnet",
        MemNet,
        "Y. Tai, J. Yang, X. Liu, C. Xu, “MemNet: A Persistent Memory Network for Image Restoration”, ICCV 2017",
        params_k=2905,
        macs_g=6.69,
        counts_from=TABLE_2,
        psnr=_table_2((32.96, 30.60, 27.03), (30.76, 29.19, 25.25), (32.33, 30.68, 25.56)),
        psnr_from=TABLE_2,
        note="0.4 % fewer MACs: published are parameters × 48², norms included; its article shares weights, 677k",
    ),
    Baseline(
        "dpdnn",
        dpdnn.DPDNN,
        "W. Dong, P. Wang, W. Yin, G. Shi, F. Wu, X. Lu, “Denoising Prior Driven Deep Neural Network for Image "
        "Restoration”, IEEE TPAMI 2019",
        multiple=16,
        params_k=1363,
        macs_g=5.25,
        counts_from=TABLE_2,
        psnr=_table_2((32.91, 30.54, 27.50), (31.83, 29.27, 26.40), (32.98, 30.30, 26.85)),
        psnr_from=TABLE_2,
        note="9.8 % fewer MACs: published are transposed convolutions at every output position; two convolutions of "
        "the released code are counted but never used",
        author_keys=dpdnn.AUTHORS_KEYS,
    ),
    Baseline(
        "focnet",
        FOCNet,
        "X. Jia, S. Liu, X. Feng, L. Zhang, “FOCNet: A Fractional Optimal Control Network for Image Denoising”, CVPR "
        "2019",
        multiple=8,
        psnr=_table_2((33.07, 30.73, 27.68), (31.83, 29.38, 26.50), (33.15, 30.64, 27.40)),
        psnr_from=TABLE_2,
        note="counts are published nowhere; layers are those of the released definition",
    ),
    Baseline(
        "rdn",
        RDN,
        "Y. Zhang, Y. Tian, Y. Kong, B. Zhong, Y. Fu, “Residual Dense Network for Image Restoration”, IEEE TPAMI 2021",
        channels=(1, 3),
        params_k=21970,
        macs_g=50.6,
        counts_from=TABLE_2,
        psnr=_table_2((32.95, 30.66, 27.60), (31.74, 29.29, 26.41), (33.04, 30.50, 27.40)),
        psnr_from=TABLE_2,
        note="0.02 % more parameters; without its 9,473 biases 0.03 % fewer",
    ),
    Baseline(
        "ecae",
        ecae.ECAE,
        "M. Suganuma, M. Ozay, T. Okatani, “Exploiting the Potential of Standard Convolutional Autoencoders for Image "
        "Restoration by Evolutionary Search”, ICML 2018",
        channels=(1, 3),
        params_k=1062,
        macs_g=2.45,
        counts_from=TABLE_2,
        psnr=_table_2((None, None, 26.53), (None, None, 25.86), (None, None, 24.51)),
        psnr_from=TABLE_2,
        author_keys=ecae.AUTHORS_KEYS,
    ),
    Baseline(
        "hinas",
        HiNAS,
        "H. Zhang, Y. Li, H. Chen, C. Shen, “Memory-Efficient Hierarchical Neural Architecture Search for Image "
        "Denoising”, CVPR 2020",
        channels=(1, 3),
        params_k=630,
        counts_from=TABLE_2,
        psnr=_table_2((32.50, 30.35, 27.25), (31.16, 28.92, 26.04), (31.92, 29.52, 26.01)),
        psnr_from=TABLE_2 + ", its own reproduction",
        note="47 % fewer parameters: the searched cells are published as a figure only; these are stand-ins in the "
        "released code's shell",
    ),
    Baseline(
        "cbdnet",
        cbdnet.CBDNet,
        "S. Guo, Z. Yan, K. Zhang, W. Zuo, L. Zhang, “Toward Convolutional Blind Denoising of Real Photographs”, CVPR "
        "2019",
        channels=(3,),
        multiple=4,
        params_k=4346,
        counts_from=TABLE_4,
        note="0.4 % more parameters, for no published reason; SIDD test 33.28 dB by the same table",
        author_keys=cbdnet.AUTHORS_KEYS,
    ),
    Baseline(
        "vdn",
        VDN,
        "Z. Yue, H. Yong, Q. Zhao, L. Zhang, D. Meng, “Variational Denoising Network”, NeurIPS 2019",
        channels=(3, 1),
        multiple=8,
        params_k=2325,
        counts_from=TABLE_4,
        author_keys=((r"^SNet\..*", ""),),  # for training alone
        note="3.3 times the published parameters, which no part of the released code has; SIDD test 39.26 dB there",
    ),
    Baseline(
        "danet",
        danet.DANet,
        "Z. Yue, Q. Zhao, L. Zhang, D. Meng, “Dual Adversarial Network”, ECCV 2020",
        channels=(3, 1),
        multiple=16,
        params_k=9154,
        counts_from=TABLE_4,
        note="SIDD test 39.25 dB by the same table",
        author_keys=danet.AUTHORS_KEYS,
    ),
    Baseline(
        "ffdnet",
        FFDNet,
        "K. Zhang, W. Zuo, L. Zhang, “FFDNet: Toward a Fast and Flexible Solution for CNN based Image Denoising”, IEEE "
        "TIP 2018",
        noise="sigma",
        channels=(1, 3),
        multiple=2,
        params_k=485,
        counts_from="its authors' files",
        psnr=_table_2((32.75, 30.43, 27.32), (31.63, 29.19, 26.29), (32.40, 29.90, 26.50)),
        psnr_from=RESTORMER,
    ),
    Baseline(
        "drunet",
        DRUNet,
        "K. Zhang, Y. Li, W. Zuo, L. Zhang, L. Van Gool, R. Timofte, “Plug-and-Play Image Restoration with Deep "
        "Denoiser Prior”, IEEE TPAMI 2021",
        noise="sigma",
        channels=(1, 3),
        multiple=8,
        params_k=32640,
        counts_from="its authors' files",
        psnr=_table_2((33.25, 30.94, 27.90), (31.91, 29.48, 26.59), (33.44, 31.11, 27.96)),
        psnr_from=RESTORMER,
    ),
    Baseline(
        "nafnet",
        NAFNet,
        "L. Chen, X. Chu, X. Zhang, J. Sun, “Simple Baselines for Image Restoration”, ECCV 2022",
        channels=(3, 1),
        multiple=16,
        params_k=29160,
        counts_from="its article",
        note="width 32, the SIDD setting",
    ),
    Baseline(
        "scunet",
        SCUNet,
        "K. Zhang et al., “Practical Blind Image Denoising via Swin-Conv-UNet and Data Synthesis”, Machine "
        "Intelligence Research 2023",
        channels=(1, 3),
        multiple=64,
        params_k=17940,
        counts_from="its article",
        psnr=_table_2((33.43, 31.09, 28.04), (31.99, 29.55, 26.67), (33.88, 31.58, 28.56)),
        psnr_from="its authors' repository, its table of results",
        note="48×48 is padded to 64×64: MACs at that size are 1.8 times those of its pixels",
    ),
)

BASELINES: Mapping[str, Baseline] = MappingProxyType({baseline.name: baseline for baseline in _ALL})
