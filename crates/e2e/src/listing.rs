//! What a server lists, all pages of it.

use pendula_client::{Client, InstanceFilter};
use pendula_model::api::InstanceView;

/// All instances of a job.
pub async fn all_instances(client: &Client, app: &str, job: &str) -> Vec<InstanceView> {
    let mut filter = InstanceFilter {
        app: Some(app.to_owned()),
        job: Some(job.to_owned()),
        limit: Some(1000),
        ..InstanceFilter::default()
    };
    let mut found = Vec::new();
    loop {
        let page = client.instance_list(&filter).await.expect("listing works");
        found.extend(page.items);
        match page.next_cursor {
            Some(cursor) => filter.cursor = Some(cursor),
            None => return found,
        }
    }
}
