//! Whether the colours of curves that share a lane can be told apart without one kind of cone. Tests only.

use super::STYLE;

/// The least distance (CIE 1976) between two colours. A distance of 2.3 is just noticeable; text and lines need more.
const LEAST_DISTANCE: f64 = 18.0;

/// The names of the colours of `line0`, `line1` and `line2`.
const SERIES: [&str; 3] = ["blue", "orange", "purple"];

/// What linear RGB becomes without the cones for long, middle and short waves: the matrices of full severity of Machado,
/// Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009). The first
/// is that of all cones.
const VIEWERS: [(&str, [[f64; 3]; 3]); 4] = [
    ("all cones", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    (
        "protanopia",
        [
            [0.152_286, 1.052_583, -0.204_868],
            [0.114_503, 0.786_281, 0.099_216],
            [-0.003_882, -0.048_116, 1.051_998],
        ],
    ),
    (
        "deuteranopia",
        [
            [0.367_322, 0.860_646, -0.227_968],
            [0.280_085, 0.672_501, 0.047_413],
            [-0.011_820, 0.042_940, 0.968_881],
        ],
    ),
    (
        "tritanopia",
        [
            [1.255_528, -0.076_749, -0.178_779],
            [-0.078_411, 0.930_809, 0.147_602],
            [0.004_733, 0.691_367, 0.303_900],
        ],
    ),
];

/// From linear sRGB to XYZ, as shares of the white of D65.
const XYZ: [[f64; 3]; 3] = [
    [0.433_95, 0.376_21, 0.189_84],
    [0.212_67, 0.715_15, 0.072_18],
    [0.017_76, 0.109_47, 0.872_77],
];

fn apply(matrix: [[f64; 3]; 3], vector: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row.iter().zip(vector).map(|(factor, value)| factor * value).sum())
}

/// A colour such as `#0064a6` as linear RGB.
fn linear(colour: &str) -> [f64; 3] {
    [1, 3, 5].map(|at| {
        let byte = u8::from_str_radix(&colour[at..at + 2], 16).unwrap();
        let value = f64::from(byte) / 255.0;
        if value <= 0.040_45 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    })
}

/// The colour in L*a*b*, as a viewer sees it.
fn lab(colour: &str, viewer: [[f64; 3]; 3]) -> [f64; 3] {
    let seen = apply(viewer, linear(colour)).map(|value| value.clamp(0.0, 1.0));
    let [x, y, z] = apply(XYZ, seen).map(|share| {
        if share > 216.0 / 24_389.0 {
            share.cbrt()
        } else {
            (24_389.0 / 27.0 * share + 16.0) / 116.0
        }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

fn distance(one: &str, other: &str, viewer: [[f64; 3]; 3]) -> f64 {
    let (one, other) = (lab(one, viewer), lab(other, viewer));
    one.iter()
        .zip(other)
        .map(|(one, other)| (one - other).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// All values of a colour in the style: of light mode, of dark mode and of print.
fn values(name: &str) -> Vec<&'static str> {
    let start = format!("--{name}: ");
    let parts = STYLE.split(&start).skip(1);
    parts.map(|rest| &rest[..7]).collect()
}

#[test]
fn curves_of_a_lane_can_be_told_apart_by_everybody() {
    let [first, second, third] = SERIES.map(values);
    assert_eq!([first.len(), second.len(), third.len()], [3; 3]);
    for scheme in 0..3 {
        let colours = [first[scheme], second[scheme], third[scheme]];
        for (name, viewer) in VIEWERS {
            for (one, other) in [(0, 1), (0, 2), (1, 2)] {
                let distance = distance(colours[one], colours[other], viewer);
                assert!(
                    distance >= LEAST_DISTANCE,
                    "{name}: {} and {} are {distance:.1} apart",
                    colours[one],
                    colours[other]
                );
            }
        }
    }
}

#[test]
fn distances_are_those_of_the_literature() {
    let [(_, all_cones), (_, protanopia), ..] = VIEWERS;
    let [lightness, ..] = lab("#ffffff", all_cones);
    assert!((lightness - 100.0).abs() < 0.1, "{lightness}");
    // Red and green of sRGB are 170.6 apart; without cones for long waves red is dark.
    let all = distance("#ff0000", "#00ff00", all_cones);
    assert!((all - 170.6).abs() < 1.0, "{all}");
    let [red, ..] = lab("#ff0000", protanopia);
    assert!(red < 45.0, "{red}");
}
