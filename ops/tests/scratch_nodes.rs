mod cases;
use cases::Verdict;
#[test]
fn nodes() {
    let Ok(path) = std::env::var("NODE_CASES") else { return };
    let filter = std::env::var("FILTER").unwrap_or_default();
    let text = std::fs::read_to_string(path).unwrap();
    let (mut passed, mut unsupported, mut wrong) = (0, 0, 0);
    let show_un = std::env::var("UN").is_ok();
    for case in cases::read(&text) {
        if !case.name.contains(&filter) {
            continue;
        }
        match case.check() {
            Verdict::Passed => passed += 1,
            Verdict::Unsupported(why) => {
                unsupported += 1;
                if show_un || !why.starts_with("no rule for") {
                    println!("UNSUPPORTED {}: {why}", case.name)
                }
            }
            Verdict::Wrong(why) => {
                wrong += 1;
                println!("WRONG {}: {}", case.name, &why[..why.len().min(300)])
            }
        }
    }
    println!("passed {passed} unsupported {unsupported} wrong {wrong}");
}
