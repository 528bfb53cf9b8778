//! A small data folder in the shape of the public one, with invented rows.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Brands of the invented rows.
pub(crate) const BRANDS: [&str; 6] = [
    "zeltok",
    "marbo",
    "quinta",
    "fernsby",
    "t-volt",
    "blue heron",
];

/// Writes the files that `Corpus::read` wants.
pub(crate) fn write_data(folder: &Path) {
    let mut rows = "title\tbrand\tcategory\tbrand_in_title\n".to_owned();
    for i in 0..300 {
        let brand = BRANDS[i % BRANDS.len()];
        let _ = match i % 10 {
            8 => writeln!(rows, "{i} usb cable black\t{brand}\tcables\t0"),
            9 => writeln!(rows, "new-{brand} {i} - usb cable\t{brand}\t\t1"),
            _ => writeln!(rows, "{brand} x{i} wireless mouse black\t{brand}\tmice\t1"),
        };
    }
    let files = [
        ("walmart_amazon_title_brand_train.tsv", rows.as_str()),
        (
            "nsi_all_brands.tsv",
            "category\tdisplayName\tbrand\tbrand_en\nshop/x\tOrvela\tOrvela\t\nshop/x\tPim & Co\tPim\t\n",
        ),
        (
            "simple_icons.json",
            r#"[{"title": "Nuvex"}, {"title": "Harbour"}]"#,
        ),
        (
            "nsi_thai_brands.jsonl",
            "{\"names\": {\"brand\": \"กรุงศรี\", \"brand:en\": \"Krungsri\"}}\n",
        ),
        (
            "wisesight_q.txt",
            "เท่าไหร่\nหมดวันไหน\nมีสีอะไรบ้าง\nราคาเท่าไร\nส่งวันไหน\nกี่บาท\n",
        ),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("the test folder is writable");
    }
}
