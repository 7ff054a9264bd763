use super::*;
use crate::position::Term;
use object_store::memory::InMemory;

fn source(store: &Store) -> SourceStore {
    store.source(&"default".parse().unwrap())
}

#[tokio::test]
async fn the_first_put_wins_and_the_second_is_shown_what_won() {
    let store = source(&Store::over(Arc::new(InMemory::new()), "memory://"));
    let name = ObjectName::Term(Term(1));
    assert_eq!(store.put_new(&name, Bytes::from("mine")).await.unwrap(), Put::Stored);
    assert_eq!(store.put_new(&name, Bytes::from("mine")).await.unwrap(), Put::Stored);
    assert_eq!(store.put_new(&name, Bytes::from("theirs")).await.unwrap(), Put::Taken(Bytes::from("mine")));
    assert!(store.exists(&name).await.unwrap());
    assert_eq!(store.list(&Folder::Terms).await.unwrap(), [(name.clone(), 4)]);
    store.delete(&name).await.unwrap();
    store.delete(&name).await.unwrap();
    assert!(store.get(&name).await.unwrap_err().is_absent());
}

#[tokio::test]
async fn an_empty_folder_lists_nothing_also_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let url: StoreUrl = format!("file://{}", folder.path().join("new").display()).parse().unwrap();
    assert!(Store::open(&url).is_err());
    let store = Store::create(&url).unwrap();
    assert!(store.sources().await.unwrap().is_empty());
    let source = source(&store);
    assert!(source.pages().await.unwrap().is_empty());
    assert!(source.list(&Folder::Terms).await.unwrap().is_empty());
    let name = ObjectName::History(crate::position::HistoryId(Ulid(9)));
    source.put_new(&name, Bytes::from("x")).await.unwrap();
    assert_eq!(store.sources().await.unwrap().len(), 1);
    assert_eq!(source.everything().try_collect::<Vec<_>>().await.unwrap(), [(Ok(name), 1)]);
}
