use super::*;

fn prepared(source: &str) -> String {
    let prepared = prepare(source).unwrap_or_else(|problem| panic!("{}", problem.message));
    prepared
        .replace(GROWN, "g")
        .replace(TEXT, "t")
        .replace(FACTOR, "f")
        .replace(SLICED, "s")
}

#[test]
fn what_grows_is_counted_on_both_sides() {
    for (source, expected) in [
        ("{{ a + b }}", "{{ a|g + b|g }}"),
        (
            "{{ a ~ b.c['d'](e)|f ~ 'g' }}",
            "{{ a|t ~ b.c['d'](e)|g|f|t|t ~ 'g'|t }}",
        ),
        (
            "{% for x in m[1:] if y in x.z %}",
            "{% for x in m[1:]|g|s if y in x.z|g %}",
        ),
        (
            "{{ m[:n[0]][1]|f }}{{ [{'a': 1}][b] }}",
            "{{ m[:n[0]][1]|g|f|s }}{{ [{'a': 1}][b] }}",
        ),
        (
            "{% set x = (a + 'b') + -1 %}",
            "{% set x = (a|g + 'b'|g)|g + -1|g %}",
        ),
        (
            "{{- f(*xs) + [1, {'a': 2}] -}}",
            "{{- f(*xs)|g + [1, {'a': 2}]|g -}}",
        ),
        (
            "{%+ if a is b and 2 * n > 1 -%}",
            "{%+ if a is b and 2|f * n|f > 1 -%}",
        ),
        ("{{ '+' }} + {# a + b #}", "{{ '+' }} + {# a + b #}"),
        (
            "{{ {'a': {}}  }}{{ a ** b // c }}",
            "{{ {'a': {}}  }}{{ a ** b // c }}",
        ),
    ] {
        assert_eq!(prepared(source), expected);
    }
}

#[test]
fn generation_blocks_are_always_taken() {
    assert_eq!(
        prepared("{%- generation -%}\n x {% endgeneration %}"),
        "{%- if true -%}\n x {% endif %}"
    );
    assert_eq!(prepared("{{ generation }}"), "{{ generation }}");
}

#[test]
fn long_literals_have_a_call_inside_and_blank_ones_are_bounded() {
    let long = format!("{{% x %}}\n  {} \n{{% y %}}", "ab".repeat(40));
    let call = format!("{{% x %}}\n  a{{{{ {LITERAL}(85) }}}}b");
    assert!(prepared(&long).starts_with(&call), "{}", prepared(&long));
    assert!(prepare(&" ".repeat(1025)).is_err());
    let raw = format!("{{% raw %}}{{{{ + }}}}{}{{% endraw %}}", "x".repeat(1025));
    assert!(prepare(&raw).is_err());
    assert_eq!(
        prepared("{% raw %}{{ a + b }}{%- endraw %}"),
        "{% raw %}{{ a + b }}{%- endraw %}"
    );
}

#[test]
fn what_is_cut_short_is_left_to_the_library() {
    for source in [
        "{{ a + ",
        "{% if 'x",
        "{#",
        "{%",
        "{{ '\\",
        "{",
        "{{ ) + ] }}",
        "é{{ é + é }}",
    ] {
        let _ = prepare(source);
    }
}

#[test]
fn a_template_that_looks_for_a_text_inspects_it() {
    let source =
        "{% if '</think>' in c %}{{ c.split( \"<think>\") }}{% endif %}{{ '<|im_end|>' + c }}";
    assert!(inspects(source, "</think>") && inspects(source, "<think>"));
    assert!(!inspects(source, "<|im_end|>"));
}
