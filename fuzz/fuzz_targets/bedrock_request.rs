//! A Converse body from a client: an error that names a field, or a request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tiermesh_bedrock::wire::request::parse;
use tiermesh_core::ErrorClass;

fuzz_target!(|body: &[u8]| {
    match parse("amazon.nova-lite-v1:0", body) {
        // What is well-formed is then held to the mesh's own limits.
        Ok(raw) => drop(raw.validate()),
        Err(error) => {
            assert_eq!(error.class, ErrorClass::InvalidArgument);
            assert!(error.message.len() < 1000, "an error repeats the body");
        }
    }
});
