"""TCGA-BRCA as in FLamby: 1,088 women and men with breast cancer in six regions; how soon does one die?

Ogier du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic Healthcare
Settings", NeurIPS 2022 (Fed-TCGA-BRCA), from the clinical tables of The Cancer Genome Atlas as Andreux et al. 2020
(arXiv 2006.08997) prepared them. x is age and 38 facts of yes or no; y is days, and whether death came then.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets._centres import dealt
from metaleaf.datasets.synthetic import check_limits
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles
from metaleaf.raw.rows import Row, table

FOLDER = "multitask"
PATIENTS = ("fed_tcga_brca.csv", "brca.csv")
SPLIT = ("fed_tcga_brca_train_test_split.csv", "train_test_split.csv")
REMEDY = (
    "put brca.csv and dataset_creation_scripts/train_test_split.csv of FLamby (https://github.com/owkin/FLamby, folder "
    f"flamby/datasets/fed_tcga_brca) into $METALEAF_RAW/{FOLDER}/ as {PATIENTS[0]} and {SPLIT[0]}."
)
ROWS = {PATIENTS: 1096, SPLIT: 1088}
"""Lines of each file; eight patients are in no region."""

REGIONS = ("Northeast", "South", "West", "Midwest", "Europe", "Canada")
"""By FLamby's numbers."""

LIMITS = {"clients_per_region": (1, 50), "seed": (0, 2**32 - 1)}
"""Least and greatest value of each option."""

FEATURES = (
    "age_at_index",
    "ethnicity_not hispanic or latino",
    "ethnicity_not reported",
    "race_asian",
    "race_black or african american",
    "race_not reported",
    "race_white",
    "ajcc_pathologic_m_MX",
    "ajcc_pathologic_n_N0 (i-)",
    "ajcc_pathologic_n_N1",
    "ajcc_pathologic_n_N1a",
    "ajcc_pathologic_n_N2",
    "ajcc_pathologic_n_N2a",
    "ajcc_pathologic_stage_Stage IA",
    "ajcc_pathologic_stage_Stage IIA",
    "ajcc_pathologic_stage_Stage IIB",
    "ajcc_pathologic_stage_Stage IIIA",
    "ajcc_pathologic_stage_Stage IIIC",
    "ajcc_pathologic_t_T1c",
    "ajcc_pathologic_t_T2",
    "ajcc_pathologic_t_T3",
    "ajcc_staging_system_edition_5th",
    "ajcc_staging_system_edition_6th",
    "ajcc_staging_system_edition_7th",
    "icd_10_code_C50.9",
    "morphology_8500/3",
    "morphology_8520/3",
    "primary_diagnosis_Infiltrating duct carcinoma, NOS",
    "primary_diagnosis_Lobular carcinoma, NOS",
    "prior_malignancy_yes",
    "synchronous_malignancy_Not Reported",
    "treatment_or_therapy_not reported",
    "treatment_or_therapy_yes",
    "tumor_stage_stage i",
    "tumor_stage_stage ia",
    "tumor_stage_stage iia",
    "tumor_stage_stage iib",
    "tumor_stage_stage iiia",
    "tumor_stage_stage iiic",
)
"""What the numbers of x are; the first is years, the others are 0 or 1."""


class Region(NamedTuple):
    """x float32 [n, 39], y float32 [n, 2] (days, event), in the order of the file; test: whether FLamby tests on it."""

    name: str
    x: np.ndarray
    y: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class TcgaBrca:
    """Six regions, each dealt out into clients; environments are the regions.

    clients_per_region: 1 makes FLamby's clients, too few to split them into training, validation and test. seed: draws
    who is in which. ConfigError for an option outside `LIMITS`.
    """

    clients_per_region: int = 5
    seed: int = 0

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(len(FEATURES),),
        x_dtype="float32",
        classes=0,
        model="logistic",
        licence="TCGA: open access; FLamby: MIT",
        homepage="https://github.com/owkin/FLamby",
        citation="""@inproceedings{ogier2022flamby,
  title = {{FLamby}: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic Healthcare Settings},
  author = {Ogier du Terrail, Jean and Ayed, Samy-Safwan and Cyffers, Edwige and Grimberg, Felix and He, Chaoyang
            and Loeb, Regis and Mangold, Paul and Marchand, Tanguy and Marfoq, Othmane and Mushtaq, Erum
            and Muzellec, Boris and Philippenko, Constantin and Silva, Santiago and Tele{\\'n}czuk, Maria
            and Albarqouni, Shadi and Avestimehr, Salman and Bellet, Aur{\\'e}lien and Dieuleveut, Aymeric
            and Jaggi, Martin and Karimireddy, Sai Praneeth and Lorenzi, Marco and Neglia, Giovanni
            and Tommasi, Marc and Andreux, Mathieu},
  booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
  year = {2022}
}""",
        task="survival",
        y_shape=(2,),
        y_dtype="float32",
        standardise="x",
    )

    def __post_init__(self) -> None:
        check_limits("tcga_brca", self, LIMITS)

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        """Yield the clients region by region. DataError if a file is missing or damaged."""
        for region in regions(raw.of(FOLDER)):
            yield from dealt("tcga_brca", region.name, region.x, region.y, self.clients_per_region, self.seed)


def regions(files: RawFiles) -> list[Region]:
    """FLamby's six centres with its split, in its order. DataError names what is wrong with a file."""
    patients = _by_patient(_table(files, PATIENTS, "pid", *FEATURES, "E", "T"))
    place = {pid: i for i, pid in enumerate(patients)}
    members: list[list[tuple[Row, bool]]] = [[] for _ in REGIONS]
    for pid, row in _by_patient(_table(files, SPLIT, "pid", "fold2")).items():
        if pid not in patients:
            raise row.fault("pid", "a patient whom the other file has, too")
        fold = row.text("fold2", [f"{part}_{i}" for part in ("train", "test") for i in range(len(REGIONS))])
        part, number = fold.split("_")
        members[int(number)].append((patients[pid], part == "test"))
    return [
        _region(name, sorted(own, key=lambda one: place[one[0]["pid"]]))
        for name, own in zip(REGIONS, members, strict=True)
    ]


def _table(files: RawFiles, names: tuple[str, str], *columns: str) -> list[Row]:
    return table(files, files.require(names, REMEDY), columns, REMEDY, count=ROWS[names])


def _by_patient(table: list[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in table:
        if found.setdefault(row["pid"], row) is not row:
            raise row.fault("pid", "a patient whom no other row has")
    return found


def _region(name: str, members: list[tuple[Row, bool]]) -> Region:
    if not members:
        raise DataError(f"{FOLDER}: nobody is in the region {name}: {REMEDY}")
    age, *facts = FEATURES
    x = [[row.number(age, 0, 120), *(row.whole(fact, 0, 1) for fact in facts)] for row, _ in members]
    y = [[row.number("T", 0, 100_000), row.whole("E", 0, 1)] for row, _ in members]
    return Region(name, np.array(x, np.float32), np.array(y, np.float32), np.array([test for _, test in members]))
