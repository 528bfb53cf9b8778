//! Titles written from templates: English, Thai, and the mixture Thai marketplaces use.

use fastrand::Rng;

use crate::example::{Category, Example};
use crate::gazetteer::{Names, capitalized, choose, pick};

const PRODUCTS: &str = include_str!("../data/products.tsv");
const TEMPLATES: &str = include_str!("../data/templates.tsv");

const COLOURS: [&str; 16] = [
    "black", "white", "red", "blue", "silver", "grey", "pink", "green", "gold", "purple", "orange",
    "brown", "beige", "navy", "clear", "yellow",
];
const THAI_COLOURS: [&str; 18] = [
    "สีดำ",
    "สีขาว",
    "สีแดง",
    "สีฟ้า",
    "สีเงิน",
    "สีเทา",
    "สีชมพู",
    "สีเขียว",
    "สีทอง",
    "สีม่วง",
    "สีส้ม",
    "สีน้ำตาล",
    "สีครีม",
    "สีกรม",
    "ดำ",
    "ขาว",
    "คละสี",
    "สีน้ำเงิน",
];
const PROMOTIONS: [&str; 16] = [
    "free shipping",
    "hot sale",
    "ready stock",
    "original",
    "genuine",
    "new",
    "brand new",
    "best price",
    "clearance",
    "official store",
    "buy 1 get 1",
    "limited edition",
    "2 year warranty",
    "oem",
    "refurbished",
    "wholesale",
];
const THAI_PROMOTIONS: [&str; 26] = [
    "ของแท้",
    "พร้อมส่ง",
    "ส่งฟรี",
    "ลดราคา",
    "ราคาถูก",
    "โปรโมชั่น",
    "ของแท้ 100%",
    "ประกันศูนย์",
    "ประกัน 1 ปี",
    "สินค้าใหม่",
    "มีเก็บปลายทาง",
    "ส่งไว",
    "ลดพิเศษ",
    "ซื้อ 1 แถม 1",
    "ขายดี",
    "ใหม่ล่าสุด",
    "ล้างสต๊อก",
    "ถูกที่สุด",
    "สินค้าพร้อมส่ง",
    "ส่งด่วน",
    "เก็บเงินปลายทาง",
    "แท้ 100%",
    "ราคาพิเศษ",
    "ของใหม่",
    "มีของพร้อมส่ง",
    "ออกใบกำกับภาษีได้",
];
const DEVICES: [&str; 16] = [
    "iphone 15",
    "iphone 14 pro max",
    "ipad 2",
    "ipad air",
    "macbook pro",
    "galaxy s24",
    "galaxy tab",
    "samsung s23",
    "apple watch",
    "nintendo switch",
    "ps5",
    "redmi note 12",
    "airpods pro",
    "oppo a78",
    "vivo y36",
    "kindle",
];

/// A kind of product with what people call it.
#[derive(Debug)]
pub struct Product {
    /// The category label.
    pub category: &'static str,
    english: Vec<&'static str>,
    thai: Vec<&'static str>,
    size: &'static str,
}

/// The product table and the templates, by use.
#[derive(Debug)]
pub struct Phrasebook {
    /// Every product of the table.
    pub products: Vec<Product>,
    templates: Vec<Template>,
}

#[derive(Debug)]
struct Template {
    usage: &'static str,
    script: Script,
    pattern: &'static str,
}

/// Which of the templates to write with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// English only.
    English,
    /// Thai, with or without Latin words.
    Thai,
}

/// What a title is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// English or Thai templates.
    pub script: Script,
    /// With a brand, or without one.
    pub brand: bool,
    /// From the templates kept for tests.
    pub held_out: bool,
    /// Whether a Thai title's brand is in Latin letters.
    pub latin_brand: bool,
}

impl Phrasebook {
    /// The tables that ship with this crate.
    #[must_use]
    pub fn new() -> Self {
        let list = |cell: &'static str| cell.split('|').collect();
        let products = rows(PRODUCTS)
            .map(|[category, english, thai, size]| Product {
                category,
                english: list(english),
                thai: list(thai),
                size,
            })
            .collect();
        let templates = rows(TEMPLATES)
            .map(|[usage, script, pattern]| Template {
                usage,
                script: if script == "en" {
                    Script::English
                } else {
                    Script::Thai
                },
                pattern,
            })
            .collect();
        Self {
            products,
            templates,
        }
    }

    /// Every phrase of the tables, for the tokenizer.
    pub fn phrases(&self) -> impl Iterator<Item = String> + '_ {
        let nouns = (self.products.iter()).flat_map(|product| {
            (product.english.iter().chain(&product.thai)).map(|noun| (*noun).to_owned())
        });
        let others = [
            &COLOURS[..],
            &THAI_COLOURS,
            &PROMOTIONS,
            &THAI_PROMOTIONS,
            &DEVICES,
        ];
        nouns.chain(
            others
                .into_iter()
                .flatten()
                .map(|phrase| (*phrase).to_owned()),
        )
    }

    /// Writes one title.
    pub fn write(&self, rng: &mut Rng, names: &Names, wanted: Wanted) -> Example {
        let usage = match (wanted.brand, wanted.held_out) {
            (true, false) => "train",
            (true, true) => "held",
            (false, false) => "none",
            (false, true) => "heldnone",
        };
        let fitting: Vec<&Template> = (self.templates.iter())
            .filter(|template| template.usage == usage && template.script == wanted.script)
            .collect();
        let template = pick(rng, &fitting);
        let product = pick(rng, &self.products);
        let brand = wanted.brand.then(|| {
            if wanted.script == Script::Thai && !wanted.latin_brand {
                names.pick_thai(rng)
            } else {
                names.pick_latin(rng)
            }
        });
        fill(rng, template.pattern, product, brand)
    }
}

impl Default for Phrasebook {
    fn default() -> Self {
        Self::new()
    }
}

/// Puts words into a pattern's slots: single capital letters with no Latin letter beside them.
fn fill(rng: &mut Rng, pattern: &str, product: &Product, brand: Option<String>) -> Example {
    let letters: Vec<char> = pattern.chars().collect();
    let mut before = String::new();
    let mut after = String::new();
    let mut seen_brand = false;
    for (i, &letter) in letters.iter().enumerate() {
        let beside = |j: Option<usize>| {
            j.and_then(|j| letters.get(j))
                .is_some_and(char::is_ascii_alphabetic)
        };
        let is_slot =
            letter.is_ascii_uppercase() && !beside(i.checked_sub(1)) && !beside(Some(i + 1));
        // `TB` is a noun with a brand glued to it, as Thai writes.
        let is_glued = matches!(
            (
                letter,
                i.checked_sub(1).map(|j| letters[j]),
                letters.get(i + 1)
            ),
            ('T', _, Some('B')) | ('B', Some('T'), _)
        );
        if letter == 'B' && (is_slot || is_glued) {
            seen_brand = true;
            continue;
        }
        let part = if seen_brand { &mut after } else { &mut before };
        if is_slot || is_glued {
            *part += &word(rng, letter, product);
        } else {
            part.push(letter);
        }
    }
    let mut example = Example {
        before,
        brand,
        after,
        category: Category::Is(product.category.to_owned()),
    };
    restyle(rng, &mut example);
    example
}

fn word(rng: &mut Rng, slot: char, product: &Product) -> String {
    match slot {
        'N' => choose(rng, &product.english).to_owned(),
        'T' => choose(rng, &product.thai).to_owned(),
        'M' => model_code(rng),
        'C' => choose(rng, &COLOURS).to_owned(),
        'W' => choose(rng, &THAI_COLOURS).to_owned(),
        'S' => size(rng, product.size),
        'P' => choose(rng, &THAI_PROMOTIONS).to_owned(),
        'E' => choose(rng, &PROMOTIONS).to_owned(),
        'X' => choose(rng, &DEVICES).to_owned(),
        other => other.to_string(),
    }
}

/// Shops write all lower case, Title Case or CAPITALS; Thai has no case.
fn restyle(rng: &mut Rng, example: &mut Example) {
    let restyle: fn(&str) -> String = match rng.u8(..20) {
        0..7 => |text| text.to_lowercase(),
        7..12 => capitalized,
        12 => |text| text.to_uppercase(),
        _ => return,
    };
    recase(example, restyle);
}

/// Changes the case of the title and its brand alike.
pub(crate) fn recase(example: &mut Example, case: fn(&str) -> String) {
    example.before = case(&example.before);
    example.after = case(&example.after);
    example.brand = example.brand.as_deref().map(case);
}

/// A made-up model number such as `ab-1520c`.
pub(crate) fn model_code(rng: &mut Rng) -> String {
    let mut code = String::new();
    for _ in 0..rng.usize(..4) {
        code.push(char::from(rng.u8(b'a'..=b'z')));
    }
    if rng.u8(..4) == 0 && !code.is_empty() {
        code.push('-');
    }
    code += &rng.u32(10..99_999).to_string();
    if rng.u8(..3) == 0 {
        code.push(char::from(rng.u8(b'a'..=b'z')));
    }
    code
}

fn size(rng: &mut Rng, kind: &str) -> String {
    let number = |rng: &mut Rng, numbers: &[u32]| pick(rng, numbers).to_string();
    match kind {
        "gb" => number(rng, &[4, 8, 16, 32, 64, 128, 256, 512]) + "gb",
        "tb" => number(rng, &[1, 2, 4, 5]) + "tb",
        "inch" => {
            number(rng, &[12, 14, 15, 16, 17, 24, 27, 32, 43, 55, 65])
                + choose(rng, &[" นิ้ว", "-inch", " inch", "\""])
        }
        "watt" => {
            number(rng, &[10, 18, 20, 33, 65, 100, 250, 600, 1000]) + choose(rng, &["w", " วัตต์"])
        }
        "pack" => {
            choose(rng, &["แพ็ค ", "pack ", "x"]).to_string()
                + &number(rng, &[2, 4, 6, 10, 12, 24, 50])
        }
        "metre" => number(rng, &[1, 2, 3, 5, 10]) + choose(rng, &["m", " เมตร"]),
        "mah" => number(rng, &[5000, 10_000, 20_000, 30_000]) + "mah",
        "mp" => number(rng, &[2, 5, 8, 12, 16, 24]) + "mp",
        "port" => number(rng, &[4, 5, 8, 16, 24]) + "-port",
        "mm" => number(rng, &[38, 40, 42, 44, 45]) + "mm",
        "cm" => number(rng, &[20, 24, 28, 60, 80, 120]) + choose(rng, &["cm", " ซม."]),
        "feet" => choose(rng, &["3.5", "5", "6"]).to_string() + " ฟุต",
        "litre" => {
            choose(rng, &["1", "1.8", "4", "5", "7.5", "12"]).to_string()
                + choose(rng, &["l", " ลิตร"])
        }
        "btu" => number(rng, &[9000, 12_000, 18_000, 24_000]) + " btu",
        "kg" => number(rng, &[1, 2, 5, 8, 10, 15]) + choose(rng, &["kg", " กก."]),
        "ml" => {
            number(rng, &[30, 50, 100, 200, 250, 300, 450, 500, 1000])
                + choose(rng, &["ml", " มล."])
        }
        "gram" => number(rng, &[5, 20, 30, 55, 60, 100, 180, 500]) + choose(rng, &["g", " กรัม"]),
        "tablet" => number(rng, &[30, 60, 90, 120]) + choose(rng, &[" tablets", " เม็ด", " แคปซูล"]),
        "shoe" => {
            choose(rng, &["size ", "เบอร์ ", "eu "]).to_string()
                + &number(rng, &[36, 37, 38, 39, 40, 41, 42, 43, 44])
        }
        "cloth" => choose(rng, &["size m", "size l", "ไซส์ xl", "ไซส์ s", "freesize"]).to_string(),
        "volt" => number(rng, &[12, 18, 20, 21]) + "v",
        "pcs" => number(rng, &[6, 12, 100, 500]) + choose(rng, &["pcs", " ชิ้น"]),
        _ => model_code(rng),
    }
}

fn rows<const N: usize>(table: &'static str) -> impl Iterator<Item = [&'static str; N]> {
    (table.lines())
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .filter_map(|line| line.split('\t').collect::<Vec<_>>().try_into().ok())
}
