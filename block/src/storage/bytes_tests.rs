//! Bounds on the memory of requests that are not aligned. Their effect is tested with the simulator.

use executor::Executor;

use super::*;

/// Blocks that hold nothing, and count what they are handed.
#[derive(Default)]
struct Counting {
    held: Cell<u64>,
    most: Cell<u64>,
    largest: Cell<u64>,
}

impl Counting {
    async fn take(&self, buf: &Buf) -> Result<()> {
        let len = buf.len() as u64;
        self.held.update(|held| held + len);
        self.most.set(self.most.get().max(self.held.get()));
        self.largest.set(self.largest.get().max(len));
        executor::yield_now().await;
        self.held.update(|held| held - len);
        Ok(())
    }
}

impl Blocks for Counting {
    async fn read_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        assert!(offset.is_multiple_of(4096) && buf.is_aligned(4096));
        self.take(buf).await
    }

    async fn write_blocks(&self, offset: u64, buf: &Buf) -> Result<()> {
        self.read_blocks(offset, buf).await
    }

    async fn clear_blocks(&self, _: u64, _: u64, _: bool) -> Result<bool> {
        Ok(false)
    }

    async fn set_end(&self, _: u64) -> Result<()> {
        Ok(())
    }
}

/// A request of 64 MiB that is off by a byte, and 64 of 2 MiB at once: bounce buffers stay small.
#[test]
fn a_request_of_any_length_is_bounced_in_a_bounded_amount_of_memory() {
    Executor::simulated(1).block_on(async {
        let (bytes, blocks) = (Bytes::new(4096, true, false, 0), Counting::default());
        let large = Buf::new(64 << 20);
        bytes.read(&blocks, 1, &large).await.unwrap();
        bytes.write(&blocks, 1, &large).await.unwrap();
        assert!(blocks.largest.get() <= PIECE && blocks.most.get() <= PIECES as u64 * PIECE);
        let part = large.slice(0..2 << 20);
        let requests = (0..64).map(|n| bytes.write(&blocks, (n << 21) + 512, &part));
        futures_util::future::join_all(requests).await.into_iter().for_each(Result::unwrap);
        assert!(blocks.most.get() <= BOUNCED, "{} bytes at once", blocks.most.get());
    });
}
