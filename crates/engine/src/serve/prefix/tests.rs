use super::*;
use crate::model::{KvCache, KvLayout, KvType, PagePool};

fn layout() -> KvLayout {
    KvLayout {
        layers: 1,
        kv_heads: 1,
        head_dim: 4,
        kind: KvType::F16,
    }
}

/// Pages of a stream that read so many tokens.
fn pages(pool: &Arc<PagePool>, tokens: usize) -> KvCache {
    let mut cache = KvCache::within(layout(), Arc::clone(pool));
    cache.reserve(tokens);
    cache.commit(tokens);
    cache
}

fn tokens(from: u32, count: u32) -> Vec<u32> {
    (from..from + count).collect()
}

fn put(index: &mut PrefixIndex, root: u64, ids: &[u32], cache: &KvCache) {
    let mut at = Parent::Root(root);
    for (page, tokens) in ids.as_chunks::<PAGE>().0.iter().enumerate() {
        (at, _) = index.insert(at, *tokens, cache.page(page));
    }
}

#[test]
fn the_longest_known_beginning_is_found_and_the_last_token_left_out() {
    let pool = PagePool::new(1 << 20);
    let mut index = PrefixIndex::default();
    let ids = tokens(0, 48);
    let cache = pages(&pool, 48);
    put(&mut index, 1, &ids, &cache);
    for (length, found) in [(16, 0), (17, 1), (32, 1), (33, 2), (48, 2), (49, 3)] {
        let asked = tokens(0, length);
        assert_eq!(index.lookup(1, &asked).0.len(), found, "{length} tokens");
    }
    let mut other = tokens(0, 49);
    other[20] = 999;
    assert_eq!(index.lookup(1, &other).0.len(), 1);
    assert_eq!(index.lookup(2, &tokens(0, 49)).0.len(), 0, "another root");
}

#[test]
fn an_equal_page_is_shared_instead_of_kept_twice() {
    let pool = PagePool::new(1 << 20);
    let mut index = PrefixIndex::default();
    let (first, second) = (pages(&pool, 16), pages(&pool, 16));
    let key: [u32; PAGE] = std::array::from_fn(|i| i as u32);
    let (at, other) = index.insert(Parent::Root(1), key, first.page(0));
    assert!(other.is_none());
    let (again, other) = index.insert(Parent::Root(1), key, second.page(0));
    assert_eq!(at, again);
    assert!(Arc::ptr_eq(&other.unwrap(), first.page(0)));
}

#[test]
fn the_longest_unused_leaf_that_nobody_holds_goes_first() {
    let pool = PagePool::new(1 << 20);
    let mut index = PrefixIndex::default();
    for family in 0..3 {
        let cache = pages(&pool, 32);
        put(&mut index, 1, &tokens(family * 100, 32), &cache);
    }
    let held = index.lookup(1, &tokens(0, 33)).0;
    index.lookup(1, &tokens(200, 33));
    let one_less = pool.used() - layout().page_bytes();
    assert!(index.evict_until(|| pool.used() <= one_less));
    assert_eq!(index.lookup(1, &tokens(100, 33)).0.len(), 1, "its end went");
    assert_eq!(index.idle_pages(), 3);
    assert!(
        !index.evict_until(|| pool.used() == 0),
        "two pages are held"
    );
    assert_eq!(pool.used(), 2 * layout().page_bytes());
    drop(held);
    assert!(index.evict_until(|| pool.used() == 0));
    assert_eq!(index.stats().pages, 0);
}
