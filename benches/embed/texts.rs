//! What is embedded: product titles, as people list them.

use anyhow::Context as _;
use std::path::Path;
use std::time::Instant;
use tokenizers::Tokenizer;

/// Real titles that lie beside the project where they have been fetched.
const TITLES: &str = "../shared/data/brands/walmart_amazon_title_brand_train.tsv";
/// One title in so many, so that neighbours in the alphabet do not repeat.
const STRIDE: usize = 7;

/// Titles of our own for where there are no others.
const OWN: [&str; 16] = [
    "wireless mouse with two buttons and a wheel black",
    "usb cable 2 m",
    "laser toner cartridge high yield for small office printers",
    "stainless steel water bottle 750 ml with bamboo lid",
    "noise cancelling headphones over ear bluetooth 5.2 white 30 h battery",
    "desk lamp led dimmable",
    "external hard drive 4 tb usb 3.0 portable 2.5 inch",
    "running shoes size 42 grey",
    "memory card 64 gb class 10",
    "hdmi cable high speed with ethernet gold plated 5 m braided",
    "organic green tea 100 bags",
    "office chair mesh back adjustable arms and lumbar support",
    "phone case clear",
    "mechanical keyboard 87 keys brown switches white backlight us layout",
    "camera tripod aluminium 160 cm with phone holder and carrying bag",
    "rechargeable aa batteries 8 pack 2000 mah",
];

/// Texts, their tokens, and where they are from.
pub(crate) struct Texts {
    pub(crate) texts: Vec<String>,
    pub(crate) ids: Vec<Vec<u32>>,
    pub(crate) from: &'static str,
    tokenizer: Tokenizer,
}

impl Texts {
    /// `count` texts and their tokens by the model's own tokenizer.
    pub(crate) fn read(model: &Path, count: usize) -> anyhow::Result<Self> {
        let titles = Path::new(env!("CARGO_MANIFEST_DIR")).join(TITLES);
        let (texts, from) = match std::fs::read_to_string(titles) {
            Ok(table) => (from_table(&table, count), "walmart_amazon titles"),
            Err(_) => {
                let own = OWN.iter().cycle().take(count);
                (own.map(|text| (*text).to_owned()).collect(), "own titles")
            }
        };
        let tokenizer = tokenizer(&model.join("tokenizer.json"))?;
        let mut texts = Self {
            texts,
            ids: Vec::new(),
            from,
            tokenizer,
        };
        texts.ids = texts.tokenize()?;
        Ok(texts)
    }

    /// Tokens a text on average, the ones around it included.
    pub(crate) fn mean_tokens(&self) -> f64 {
        let tokens: usize = self.ids.iter().map(Vec::len).sum();
        tokens as f64 / self.ids.len() as f64
    }

    /// Microseconds to make a text into tokens, on average.
    pub(crate) fn tokenize_us(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let ids = self.tokenize()?;
        Ok(began.elapsed().as_secs_f64() * 1e6 / ids.len() as f64)
    }

    fn tokenize(&self) -> anyhow::Result<Vec<Vec<u32>>> {
        let encode = |text: &String| {
            let encoding = self.tokenizer.encode(&**text, true);
            let encoding = encoding.map_err(|error| anyhow::anyhow!("{text:?}: {error}"))?;
            Ok(encoding.get_ids().to_vec())
        };
        self.texts.iter().map(encode).collect()
    }
}

fn from_table(table: &str, count: usize) -> Vec<String> {
    let rows = table.lines().skip(1).step_by(STRIDE);
    let titles = rows.filter_map(|row| row.split('\t').next());
    titles.take(count).map(str::to_owned).collect()
}

/// The model's tokenizer, which neither cuts nor fills up.
fn tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    let wrong = |error| anyhow::anyhow!("{}: {error}", path.display());
    let mut tokenizer = Tokenizer::from_file(path).map_err(wrong)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(wrong)?;
    Ok(tokenizer)
}

/// The cosine of two vectors.
fn cosine(a: &[f32], b: &[f32]) -> anyhow::Result<f64> {
    anyhow::ensure!(a.len() == b.len(), "{} numbers and {}", a.len(), b.len());
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    anyhow::ensure!(cosine.is_finite(), "an embedding is zero or no number");
    Ok(cosine)
}

/// The least cosine of embeddings, pair by pair.
pub(crate) fn least_cosine(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> anyhow::Result<f64> {
    let pairs = ours.iter().zip(theirs);
    let mut least = 1.0_f64;
    for (index, (ours, theirs)) in pairs.enumerate() {
        let cosine = cosine(ours, theirs).with_context(|| format!("text {index}"))?;
        least = least.min(cosine);
    }
    Ok(least)
}
