//! Programs that train the models tiermesh ships.
//!
//! `brand-extractor` reads a product title in English, Thai or a mixture of both and answers with
//! a JSON object: brand, category and language. [`corpus`] makes the examples, [`tokens`] the
//! tokenizer, [`model`] is the network, [`train`] the loop, [`weights`] reads and writes Hugging
//! Face directories, and [`ship`] makes the int8 artifact.

pub mod augment;
pub mod batch;
pub mod corpus;
pub mod decode;
pub mod evaluate;
pub mod example;
pub mod gazetteer;
pub mod generate;
pub mod manifest;
pub mod model;
pub mod rows;
pub mod ship;
pub mod tokens;
pub mod train;
pub mod validate;
pub mod weights;
