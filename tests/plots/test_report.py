"""Figures and report from synthetic data: what is said, what is escaped, and that nothing to show is no fault."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from nalspark.absorption.images import HALF_WIDTH, ImageGeometry
from nalspark.lines import MG_II, SPEED_OF_LIGHT_KMS
from nalspark.plots import figures
from nalspark.plots.figures import GalleryItem, absorber_figure, histogram_figure, incidence_figure, path_figure, path_per_bin
from nalspark.plots.report import BitCount, CatalogueMatch, RatioSample, Rejected, ReportData, render_report
from nalspark.spectra.grid import LATTICE

GEOMETRY = ImageGeometry.of(MG_II, LATTICE.step)
EVIL = "<script>alert('$x_{')</script>&\""


def make_item(z: float = 1.0007, spectrum_id: str = "0752-52251-0044", fwhm: float = 150.0, **absorber: object) -> GalleryItem:
    """A noiseless absorber on a flat continuum, drawn into the spectrum and into the image with the same Gaussians."""
    wavelength = LATTICE.wavelength
    sigma = math.hypot(fwhm / 2.3548, 69.03)
    widths = {line.label: 1.5 if line in (MG_II.primary, MG_II.secondary) else 0.6 for line in MG_II.transitions}
    flux = np.ones_like(wavelength)
    for line in MG_II.transitions:
        depth = widths[line.label] * SPEED_OF_LIGHT_KMS / (line.wavelength * sigma * math.sqrt(2 * math.pi))
        velocity = SPEED_OF_LIGHT_KMS * np.log(wavelength / (line.wavelength * (1 + z)))
        flux -= depth * np.exp(-0.5 * (velocity / sigma) ** 2)
    pixel = round(float(LATTICE.pixel(MG_II.primary.wavelength * (1 + z))))
    columns = np.clip(pixel + GEOMETRY.offsets[:, None] + np.arange(-HALF_WIDTH, HALF_WIDTH + 1), 0, len(flux) - 1)
    row = {"spectrum_id": spectrum_id, "z_abs": z, "z_abs_err": 4e-5, "fwhm_kms": fwhm, "doublet_ratio": 1.0, "score": 0.99, "ra": 120.0}
    row |= {f"ew_{label}": width for label, width in widths.items()} | absorber
    return GalleryItem(
        row, wavelength, flux, np.ones_like(flux), np.full_like(flux, 0.05), 1.0 - flux[columns], np.full(columns.shape, 20.0),
        GEOMETRY.fractions, [str(line) for line in MG_II.transitions], np.array([line.wavelength for line in MG_II.transitions]),
        (GEOMETRY.primary, GEOMETRY.secondary), pixel, ("near quasar",), ((4500.0, 5566.0), (5590.0, 7000.0)),
    )  # fmt: skip


def make_report(**changes: object) -> ReportData:
    z = np.linspace(0.4, 2.2, 91)
    data = ReportData(
        title=f"Survey {EVIL}",
        species="MgII",
        version="0.1.0",
        settings={"out": EVIL, "search.min_significance": "5.0"},
        counts={"files": 1200, "sightlines": 1100, "absorbers": 321},
        rejections=[Rejected("ingest", "truncated", 100, f"{EVIL}.fits ends early")],
        flags=[BitCount("NEAR_QUASAR", 32, f"within `near_quasar_kms` of z_qso {EVIL}")],
        histograms={
            "z_abs": (np.linspace(0.4, 2.2, 19), np.arange(18)),
            "ew_2796": (np.geomspace(0.1, 8, 15), np.arange(14) * 30),
            "snr": ((), ()),
            EVIL: ([0, 1], [np.nan]),
        },
        in_path=np.arange(18),
        path=(z, 100 * np.exp(-((z - 1.2) ** 2))),
        catalogue_matches=[CatalogueMatch(EVIL, 21854, 88, 21766, 80, 8, 32)],
        gallery_strongest=[make_item(spectrum_id=EVIL)],
        gallery_doubtful=[make_item(1.3)],
        doublet_ratios=RatioSample(ew=[1.0, 2.0], ratio=[1.2, np.nan], ratio_err=[0.1, 0.1], flagged=[True, False], thin_ratio=2.0),
    )
    return replace(data, **changes)


class Page(HTMLParser):
    """Tags and attributes of a page, with the balance of its open elements checked."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(make_report())


# ---- report


def test_page_is_well_formed_and_needs_nothing_else(html: str) -> None:
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "base"}
    addresses = [attributes[key] or "" for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert addresses and all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    anchors = {attributes.get("id") for _, attributes in page.tags}
    assert {address[1:] for address in addresses if address.startswith("#")} <= anchors
    assert "url(" not in html and "@import" not in html


def test_everything_from_files_is_escaped(html: str) -> None:
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(") >= 6


def test_every_figure_is_a_picture_with_a_description(html: str) -> None:
    pictures = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert len(pictures) == 7  # path, two histograms, incidence, ratios, two cards
    for attributes in pictures:
        assert len(attributes["alt"] or "") > 20
        picture = Image.open(io.BytesIO(base64.b64decode((attributes["src"] or "").split(",")[1])))
        assert (str(picture.width), str(picture.height)) == (attributes["width"], attributes["height"])


def test_numbers_and_words_are_there(html: str) -> None:
    for text in ("1,200", "321", "truncated", "Not searched: 100 files", "10.0 %", "<code>near_quasar_kms</code>", "21,766", "near quasar"):
        assert text in html
    assert "Mg II absorption in quasar spectra" in html
    assert "Nothing to show for: snr" in html


def test_a_fault_of_nalspark_itself_is_told_apart(html: str) -> None:
    assert "internal_error" not in html
    faults = [Rejected("ingest", "internal_error", 2, "TypeError"), Rejected("preprocess", "internal_error", 1, "KeyError")]
    small = ReportData(title="t", species="MgII", version="0.1.0", rejections=[Rejected("ingest", "truncated", 100, ""), *faults])
    page = render_report(small)
    assert "3 files met a fault of nalspark itself (internal_error)" in page and "Not searched: 103 files" in page
    assert "1 file met a fault of nalspark itself (internal_error)" in render_report(replace(small, rejections=faults[1:]))


def test_same_data_give_the_same_page() -> None:
    small = make_report(gallery_doubtful=(), histograms={}, doublet_ratios=None)
    assert render_report(small) == render_report(small)


def test_page_of_a_run_that_found_nothing() -> None:
    page = render_report(ReportData(title="Empty", species="CIV", version="0.1.0", counts={"files": 0, "absorbers": 0}))
    Page(page)
    assert "No absorber was found" in page and "No redshift was searched" in page and "No file was rejected" in page
    assert "<img" not in page


def test_card_of_an_absorber_full_of_nulls() -> None:
    blank = make_item(z=1.0, fwhm=100.0)
    nothing = replace(
        blank, absorber={"spectrum_id": None, "z_abs": None, "ew_2796": math.nan}, inverse_error=np.zeros(GEOMETRY.shape),
        error=np.full(LATTICE.n_pixels, np.nan), remarks=(), searched=(),
    )  # fmt: skip
    page = render_report(make_report(gallery_strongest=[nothing], gallery_doubtful=(), histograms={}))
    assert "an unnamed spectrum" in page


# ---- figures


def test_velocities_put_the_line_at_zero() -> None:
    item = make_item(z=1.00073)
    velocity = figures.velocities(item)
    # Other lines lie in the same rows, but not within six pixels.
    near = np.where(np.abs(np.arange(-HALF_WIDTH, HALF_WIDTH + 1)) <= 6, np.asarray(item.residual), 0.0)
    at = velocity[np.arange(len(velocity)), near.argmax(axis=1)]
    assert np.all(np.abs(at) < 0.51 * LATTICE.pixel_kms)


def test_drawn_model_is_the_absorber() -> None:
    # The catalogue's W and FWHM, turned back into Gaussians, must lie on the pixels that were made with them.
    item = make_item(z=1.00073)
    velocity = figures.velocities(item)
    for row in item.doublet:
        model = figures.line_model(item, row, velocity[row])
        assert model is not None
        np.testing.assert_allclose(model, 1.0 - np.asarray(item.residual)[row], atol=2e-3)


def test_card_shows_a_panel_for_each_transition() -> None:
    figure = absorber_figure(make_item())
    written = [text.get_text() for text in figure.axes[1].texts]
    assert [text for text in written if text in {str(line) for line in MG_II.transitions}] == [str(line) for line in MG_II.transitions]
    texts = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "0752-52251-0044" in texts and "z = 1.00070 ± 0.00004" in texts and "near quasar" in texts


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="flux has shape"):
        replace(make_item(), flux=np.ones(7))
    with pytest.raises(ValueError, match="one value for each of the image's 8 rows"):
        replace(make_item(), rest=np.ones(7))


def test_path_per_bin_is_the_integral() -> None:
    z = np.linspace(0.0, 2.0, 2001)
    np.testing.assert_allclose(path_per_bin([0.0, 0.5, 1.0, 3.0], z, z**2), [0.125 / 3, 0.875 / 3, 7.0 / 3], rtol=1e-5)
    # Bins narrower than the steps of z.
    np.testing.assert_allclose(path_per_bin([0.2, 0.3], [0.0, 1.0], [0.0, 1.0]), [0.025])
    assert path_per_bin([0.0, 1.0], [], []).tolist() == [0.0]


@pytest.mark.parametrize("counts", [[], [0, 0, 0], [np.nan, 1, 2], [1, 2000, 3]])
def test_histograms_and_rates_of_anything(counts: list[float]) -> None:
    edges = np.geomspace(0.1, 10, len(counts) + 1)
    for figure in (
        histogram_figure(edges, counts, "width (Å)", log_counts=True),
        incidence_figure(edges, counts, np.ones(len(counts))),
        path_figure(edges[1:], counts),
    ):
        figure.canvas.draw()


def test_bins_must_fit_counts() -> None:
    with pytest.raises(ValueError, match="3 edges do not bound 4 bins"):
        histogram_figure([0, 1, 2], [1, 2, 3, 4], "x")


def test_figures_leave_no_global_state() -> None:
    with mpl.rc_context({"font.size": 21.0, "axes.edgecolor": "pink"}):
        figure = histogram_figure([0, 1], [1], "x")
        assert mpl.rcParams["font.size"] == 21.0 and mpl.rcParams["axes.edgecolor"] == "pink"
    assert figure.axes[0].xaxis.label.get_fontsize() == 9
    assert not hasattr(figures, "plt")
