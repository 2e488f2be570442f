"""Atomic data against numbers that can be looked up, and the geometry that follows from them."""

import math

import pytest

from nalspark import lines
from nalspark.lines import C_IV, METALS, MG_II, SPECIES, SPEED_OF_LIGHT_KMS, Transition
from nalspark.spectra.grid import LATTICE

EVERY_LINE = sorted({line for line in vars(lines).values() if isinstance(line, Transition)}, key=lambda line: line.wavelength)

#: Doublets: first and second line, and their split in km/s and f ratio worked out by hand from Morton (2003).
DOUBLETS = (
    (lines.MG_II_2796, lines.MG_II_2803, 769.5, 2.013),
    (lines.C_IV_1548, lines.C_IV_1550, 499.0, 2.004),
    (lines.SI_IV_1393, lines.SI_IV_1402, 1938.7, 2.020),
    (lines.AL_III_1854, lines.AL_III_1862, 1304.8, 2.011),
    (lines.N_V_1238, lines.N_V_1242, 963.9, 2.008),
    (lines.NA_I_5891, lines.NA_I_5897, 304.0, 2.002),
    (lines.CA_II_3934, lines.CA_II_3969, 2652.6, 2.011),
)


def test_mg_ii_geometry():
    assert MG_II.secondary.wavelength / MG_II.primary.wavelength == pytest.approx(1.0025666, abs=1e-7)
    pixels = MG_II.offset_pixels(MG_II.secondary, LATTICE.step)
    assert pixels == pytest.approx(11.1324, abs=1e-4)
    # Δλ/λ c is 769.4 km/s; eleven pixels of c ln10 1e-4 = 69.03 km/s are c Δ ln λ, a second-order term (1 km/s) less.
    assert pixels * LATTICE.pixel_kms == pytest.approx(769.4, abs=1.1)


def test_optically_thin_ratio_is_that_of_f_lambda_squared():
    # W = π e²/(m c²) N f λ² in Å: 0.6155/0.3058 = 2.0128, times (2796.3543/2803.5315)² = 0.99489.
    assert MG_II.optically_thin_ratio == pytest.approx(2.0128 * 0.99489, abs=2e-4)
    assert C_IV.optically_thin_ratio == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("first, second, split_kms, f_ratio", DOUBLETS, ids=lambda value: str(value))
def test_doublets(first, second, split_kms, f_ratio):
    assert first.ion == second.ion
    assert (second.wavelength / first.wavelength - 1) * SPEED_OF_LIGHT_KMS == pytest.approx(split_kms, abs=0.6)
    assert first.strength / second.strength == pytest.approx(f_ratio, abs=2e-3)


def test_labels_cut_to_whole_angstrom_and_are_unique():
    # 2803.53 is 2803, not 2804; 1862.79 is 1862: the field cuts, it does not round.
    assert [line.label for line in (lines.MG_II_2803, lines.AL_III_1862, lines.NA_I_5891)] == ["2803", "1862", "5891"]
    assert str(lines.MG_II_2796) == "Mg II 2796"
    assert len({line.label for line in EVERY_LINE}) == len(EVERY_LINE) > 20


def test_constants_are_named_after_their_lines():
    for name, line in vars(lines).items():
        if isinstance(line, Transition):
            assert name == f"{line.ion} {line.label}".upper().replace(" ", "_")


@pytest.mark.parametrize("species", SPECIES.values(), ids=lambda species: species.name)
def test_species(species):
    assert SPECIES[species.name] is species
    wavelengths = [line.wavelength for line in species.transitions]
    assert wavelengths == sorted(wavelengths)
    assert set(species.transitions) == {species.primary, species.secondary, *species.companions}
    assert len(species.transitions) == 2 + len(species.companions)
    # The blue line is the strong one; the search's geometry rests on a second line redwards of the first.
    assert species.primary.strength > species.secondary.strength
    assert species.offset_pixels(species.secondary, 1e-4) > 0
    assert species.offset_pixels(species.primary, 1e-4) == 0.0
    assert species.window_rest[0] < species.window_rest[1]
    # Absorption lies in front of the quasar: the window ends at the doublet's own emission line, to within the width of a pixel or two.
    assert species.window_rest[1] == pytest.approx(species.primary.wavelength, rel=2e-3)


def test_offsets_are_the_same_at_any_redshift_and_scale_with_the_step():
    line = lines.FE_II_2344
    for z in (0.4, 2.2):
        observed = math.log10(line.wavelength * (1 + z)) - math.log10(MG_II.primary.wavelength * (1 + z))
        assert MG_II.offset_pixels(line, 1e-4) == pytest.approx(observed / 1e-4, abs=1e-8)
    assert MG_II.offset_pixels(line, 2e-4) == pytest.approx(MG_II.offset_pixels(line, 1e-4) / 2)


def test_metals_hold_both_doublets_that_are_searched():
    assert {MG_II.primary, MG_II.secondary, C_IV.primary, C_IV.secondary} <= set(METALS)


def test_data_cannot_be_changed():
    with pytest.raises(AttributeError):
        lines.MG_II_2796.wavelength = 2796.35
