"""Atomic transitions and the line species that are searched for. Data, no logic beyond arithmetic on it.

Another ion is searched for once its doublet stands in :data:`SPECIES` and a model was trained for it.

Vacuum wavelengths in Å and oscillator strengths from Morton (2003, ApJS 149, 205); Ca II strengths from the NIST database.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

SPEED_OF_LIGHT_KMS = 299_792.458
#: Redshift below which absorption is that of the Milky Way and its neighbours: 900 km/s.
OUR_GALAXY = 0.003


@dataclass(frozen=True)
class Transition:
    """One line: ion, vacuum rest wavelength in Å, oscillator strength."""

    ion: str
    wavelength: float
    strength: float

    @property
    def label(self) -> str:
        """The name the field uses in columns: the wavelength cut to whole Å (``2796``)."""
        return str(int(self.wavelength))

    def __str__(self) -> str:
        return f"{self.ion} {self.label}"


MG_II_2796 = Transition("Mg II", 2796.3543, 0.6155)
MG_II_2803 = Transition("Mg II", 2803.5315, 0.3058)
MG_I_2852 = Transition("Mg I", 2852.9631, 1.83)
FE_II_2600 = Transition("Fe II", 2600.1729, 0.239)
FE_II_2586 = Transition("Fe II", 2586.6500, 0.0691)
FE_II_2382 = Transition("Fe II", 2382.7652, 0.320)
FE_II_2374 = Transition("Fe II", 2374.4612, 0.0313)
FE_II_2344 = Transition("Fe II", 2344.2139, 0.114)
FE_II_1608 = Transition("Fe II", 1608.4511, 0.0577)
C_IV_1548 = Transition("C IV", 1548.204, 0.1899)
C_IV_1550 = Transition("C IV", 1550.781, 0.09475)
SI_IV_1393 = Transition("Si IV", 1393.7602, 0.513)
SI_IV_1402 = Transition("Si IV", 1402.7729, 0.254)
SI_II_1526 = Transition("Si II", 1526.7070, 0.133)
AL_II_1670 = Transition("Al II", 1670.7886, 1.74)
AL_III_1854 = Transition("Al III", 1854.7184, 0.559)
AL_III_1862 = Transition("Al III", 1862.7910, 0.278)
N_V_1238 = Transition("N V", 1238.821, 0.156)
N_V_1242 = Transition("N V", 1242.804, 0.0777)
NA_I_5891 = Transition("Na I", 5891.5833, 0.6408)
NA_I_5897 = Transition("Na I", 5897.5581, 0.3201)
CA_II_3934 = Transition("Ca II", 3934.7750, 0.6267)
CA_II_3969 = Transition("Ca II", 3969.5901, 0.3116)

#: Lines strong enough to be seen together with a strong low-ionisation system; a found absorber explains features at them.
METALS = (
    FE_II_2600, FE_II_2586, FE_II_2382, FE_II_2374, FE_II_2344, MG_I_2852, MG_II_2796, MG_II_2803,
    AL_III_1862, AL_III_1854, AL_II_1670, FE_II_1608, C_IV_1550, C_IV_1548, SI_II_1526,
)  # fmt: skip


@dataclass(frozen=True)
class LineSpecies:
    """What is searched for: a doublet, the lines that go with it, and where a quasar lets it be seen.

    Attributes
    ----------
    name : str
        The name used by ``--species`` and in the ``species`` column.
    primary, secondary : Transition
        The doublet: the line that defines the candidate's pixel, and its partner.
    companions : tuple of Transition
        Other lines of the same absorber, measured at the fitted redshift.
    window_rest : tuple of float
        Quasar-rest wavelengths (Å) between which ``primary`` is searched.
    frequency : tuple of float
        N* and W* (Å) of the law dN/dz (> W) = N* exp(-W / W*) by which mock absorbers are as frequent as real ones, of a species for which
        :mod:`nalspark.incidence` has no published law.
    bare : float
        Part of the mock absorbers that show no other ion: who learns from them must not rely on companions.
    clustered : float
        Part of the mock absorbers, of those that are not alone in their spectrum, that lie within 2000 km/s of another one.
    alternatives : tuple of (Transition, Transition)
        Lines a, b of another ion's absorber: if the candidate's first line were a, b would be there too. Where b lies is a further row of
        the image, so that who learns from it sees what speaks against the species.
    """

    name: str
    primary: Transition
    secondary: Transition
    companions: tuple[Transition, ...]
    window_rest: tuple[float, float]
    frequency: tuple[float, float] = (1.0, 0.7)
    bare: float = 0.0
    clustered: float = 0.0
    alternatives: tuple[tuple[Transition, Transition], ...] = ()

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """All lines, by wavelength: the first rows of a candidate image."""
        return tuple(sorted((self.primary, self.secondary, *self.companions), key=lambda line: line.wavelength))

    @property
    def optically_thin_ratio(self) -> float:
        """W(primary) / W(secondary) on the linear part of the curve of growth: f λ² over f λ² (Spitzer 1978, eq. 3-48)."""
        a, b = self.primary, self.secondary
        return a.strength * a.wavelength**2 / (b.strength * b.wavelength**2)

    def offset_pixels(self, line: Transition, step_dex: float) -> float:
        """Compute how many log-λ pixels `line` lies redwards of ``primary``, at any redshift."""
        return math.log10(line.wavelength / self.primary.wavelength) / step_dex

    def alternative_pixels(self, step_dex: float) -> tuple[float, ...]:
        """Compute how many log-λ pixels redwards of the candidate the line of each alternative lies."""
        return tuple(math.log10(there.wavelength / here.wavelength) / step_dex for here, there in self.alternatives)


MG_II = LineSpecies(
    name="MgII",
    primary=MG_II_2796,
    secondary=MG_II_2803,
    companions=(FE_II_2344, FE_II_2374, FE_II_2382, FE_II_2586, FE_II_2600, MG_I_2852),
    window_rest=(1550.0, 2800.0),  # Zhao et al. 2019, §2: red side of C IV to the blue side of Mg II emission
)
C_IV = LineSpecies(
    name="CIV",
    primary=C_IV_1548,
    secondary=C_IV_1550,
    companions=(SI_IV_1393, SI_IV_1402, SI_II_1526, AL_II_1670, FE_II_1608),
    window_rest=(1250.0, 1549.0),  # redwards of Lyα emission and N V (Cooksey et al. 2013, §2.3) to C IV emission
    frequency=(3.5, 0.45),  # Cooksey et al. 2013: some one per unit redshift above 0.6 Å at z = 2
    bare=0.3,
    clustered=0.3,
    alternatives=(
        (SI_IV_1393, C_IV_1548),
        (SI_IV_1402, C_IV_1548),
        (MG_II_2796, FE_II_2600),
        (AL_III_1854, MG_II_2796),
        (FE_II_2600, MG_II_2796),
    ),
)
SI_IV = LineSpecies(
    name="SiIV",
    primary=SI_IV_1393,
    secondary=SI_IV_1402,
    companions=(C_IV_1548, C_IV_1550, SI_II_1526, AL_II_1670, FE_II_1608),
    window_rest=(1250.0, 1394.0),  # as C IV, to Si IV emission
    frequency=(1.5, 0.35),  # a fraction of C IV's (Cooksey et al. 2011); a round number
    bare=0.1,  # gas that shows it shows C IV
    clustered=0.3,
    alternatives=((MG_II_2796, FE_II_2600), (AL_III_1854, MG_II_2796), (FE_II_2600, MG_II_2796)),
)
AL_III = LineSpecies(
    name="AlIII",
    primary=AL_III_1854,
    secondary=AL_III_1862,
    companions=(C_IV_1548, C_IV_1550, AL_II_1670, FE_II_2382, FE_II_2600, MG_II_2796, MG_II_2803),
    window_rest=(1550.0, 1855.0),  # red side of C IV, bluewards of which its lines are frequent, to Al III emission
    frequency=(0.5, 0.35),  # a round number
    bare=0.2,
)
CA_II = LineSpecies(
    name="CaII",
    primary=CA_II_3934,
    secondary=CA_II_3969,
    companions=(FE_II_2382, FE_II_2586, FE_II_2600, MG_II_2796, MG_II_2803, MG_I_2852, NA_I_5891, NA_I_5897),
    window_rest=(1550.0, 3935.0),  # red side of C IV to the line itself: no broad emission
    frequency=(0.021, 0.55),  # Sardane et al. 2014: 0.012 above 0.3 Å
    bare=0.3,
)
NA_I = LineSpecies(
    name="NaI",
    primary=NA_I_5891,
    secondary=NA_I_5897,
    companions=(MG_II_2796, MG_II_2803, MG_I_2852, CA_II_3934, CA_II_3969),
    window_rest=(1550.0, 5892.0),  # as Ca II
    frequency=(0.02, 0.45),  # rarer than Ca II; a round number
    bare=0.1,  # gas as dense as this shows Ca II and Mg II, where they are on the grid
)
FE_II = LineSpecies(
    name="FeII",
    primary=FE_II_2382,  # the two strongest lines, far apart: a multiplet more than a doublet
    secondary=FE_II_2600,
    companions=(FE_II_1608, FE_II_2344, FE_II_2374, FE_II_2586, MG_II_2796, MG_II_2803, MG_I_2852),
    window_rest=(1550.0, 2383.0),  # red side of C IV to the line itself: beyond Mg II's redshifts it is the low-ionisation ion that is left
    frequency=(1.2, 0.40),  # half the width of Mg II
    bare=0.2,
)
SPECIES = {species.name: species for species in (MG_II, C_IV, SI_IV, AL_III, CA_II, NA_I, FE_II)}

#: Every line above: what one absorber may show all at once.
ALL_LINES = (*METALS, MG_I_2852, SI_IV_1393, SI_IV_1402, N_V_1238, N_V_1242, NA_I_5891, NA_I_5897, CA_II_3934, CA_II_3969)


def with_all_lines(species: LineSpecies) -> LineSpecies:
    """Give the species with every known line as a companion: what is put into a spectrum, where a search looks at some of them only."""
    others = tuple(line for line in dict.fromkeys(ALL_LINES) if line not in (species.primary, species.secondary))
    return replace(species, companions=others)


#: What is mistaken for an absorber: doublets and pairs of other ions, each with the lines that always come with it (Zhao et al. 2019, §5).
INTERLOPERS = (
    replace(C_IV, companions=(SI_IV_1393, SI_IV_1402, AL_II_1670)),
    LineSpecies("SiIV", SI_IV_1393, SI_IV_1402, (), (1250.0, 1400.0)),
    LineSpecies("AlIII", AL_III_1854, AL_III_1862, (), (1550.0, 1860.0)),
    LineSpecies("FeII2586", FE_II_2586, FE_II_2600, (FE_II_2344, FE_II_2374, FE_II_2382), (1550.0, 2600.0)),
    LineSpecies("FeII2374", FE_II_2374, FE_II_2382, (), (1550.0, 2400.0)),
    LineSpecies("NaI", NA_I_5891, NA_I_5897, (), (1550.0, 5900.0)),
    LineSpecies("CaII", CA_II_3934, CA_II_3969, (), (1550.0, 4000.0)),
    MG_II,
)


#: Ions that are never seen without another one of the same absorber.
NEVER_WITHOUT = {"Si IV": "C IV"}


def interlopers_of(species: LineSpecies) -> tuple[LineSpecies, ...]:
    """Give what can be mistaken for a species: the doublets of other ions, without lines of its own, and not those that come with it."""
    ion = species.primary.ion
    others = (other for other in INTERLOPERS if ion not in (other.primary.ion, NEVER_WITHOUT.get(other.primary.ion)))
    return tuple(replace(other, companions=tuple(line for line in other.companions if line.ion != ion)) for other in others)


#: log10 N(ion) - log10 N(ion of the doublet): mean and scatter of strong systems. From Mg II: Churchill et al. 2000 (ApJS 130, 91), Rao
#: et al. 2006. From C IV and Si IV: such that W(1393) / W(1548) and W(1526) are as in 34 real systems above 8 σ. Round numbers; an ion that
#: is not listed is not injected.
COLUMN_OFFSETS: dict[tuple[str, str], tuple[float, float]] = {
    ("Mg II", "Fe II"): (-0.3, 0.3),
    ("Mg II", "Mg I"): (-1.7, 0.3),
    ("Mg II", "Al II"): (-1.3, 0.3),
    ("Mg II", "Al III"): (-1.4, 0.4),
    ("Mg II", "Si II"): (0.0, 0.3),
    ("Mg II", "C IV"): (-0.1, 0.6),
    ("Mg II", "Si IV"): (-0.8, 0.6),
    ("Mg II", "Ca II"): (-2.2, 0.4),
    ("Mg II", "Na I"): (-3.2, 0.5),
    ("C IV", "Si IV"): (-1.2, 0.5),
    ("C IV", "Si II"): (-2.3, 0.8),
    ("C IV", "Al II"): (-3.4, 0.8),
    ("C IV", "Fe II"): (-2.4, 0.8),
    ("Si IV", "C IV"): (1.0, 0.4),
    ("Si IV", "Si II"): (-1.2, 0.8),
    ("Si IV", "Al II"): (-2.3, 0.8),
    ("Si IV", "Fe II"): (-1.3, 0.8),
    ("Al III", "Mg II"): (1.1, 0.4),
    ("Al III", "Mg I"): (-0.6, 0.5),
    ("Al III", "Fe II"): (0.8, 0.4),
    ("Al III", "Al II"): (0.0, 0.4),
    ("Al III", "Si II"): (1.1, 0.4),
    ("Al III", "C IV"): (1.0, 0.5),
    ("Al III", "Si IV"): (0.3, 0.5),
    ("Ca II", "Mg II"): (2.2, 0.4),
    ("Ca II", "Mg I"): (0.5, 0.4),
    ("Ca II", "Fe II"): (1.9, 0.4),
    ("Ca II", "Na I"): (-1.0, 0.5),
    ("Na I", "Mg II"): (3.2, 0.5),
    ("Na I", "Mg I"): (1.5, 0.5),
    ("Na I", "Fe II"): (2.9, 0.5),
    ("Na I", "Ca II"): (1.0, 0.5),
    ("Fe II", "Mg II"): (0.3, 0.3),
    ("Fe II", "Mg I"): (-1.4, 0.4),
    ("Fe II", "Al II"): (-1.0, 0.4),
    ("Fe II", "Al III"): (-1.1, 0.5),
    ("Fe II", "Si II"): (0.3, 0.4),
    ("Fe II", "C IV"): (0.2, 0.6),
    ("Fe II", "Si IV"): (-0.5, 0.6),
}
