//! A SQLite database of one's own as a projection's target: its statements and its checkpoint in one transaction.

use std::{path::Path, time::Duration};

use annals_client::projection::{Batch, Target, TargetError};
use rusqlite::{
    Connection, ErrorCode, TransactionBehavior, params, params_from_iter, types::Value,
};

const CHECKPOINTS: &str = "CREATE TABLE IF NOT EXISTS checkpoints
     (projection TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT";

/// One projection's tables in a database, which may have others beside them.
pub struct SqliteTarget {
    connection: Connection,
    projection: &'static str,
    tables: &'static str,
}

impl SqliteTarget {
    /// The database in this file, which is made where there is none. `tables` makes what the statements need, where it
    /// is not there yet.
    pub fn open(
        path: &Path,
        projection: &'static str,
        tables: &'static str,
    ) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        // Who else writes is waited for by the runner, which holds no thread meanwhile.
        connection.busy_timeout(Duration::ZERO)?;
        Ok(Self { connection, projection, tables })
    }

    fn prepare(&mut self) -> Result<u64, TargetError> {
        let behavior = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behavior).map_err(fault)?;
        transaction.execute_batch(CHECKPOINTS).map_err(fault)?;
        transaction.execute_batch(self.tables).map_err(fault)?;
        let sql = "INSERT OR IGNORE INTO checkpoints VALUES (?1, 0)";
        transaction.execute(sql, [self.projection]).map_err(fault)?;
        let position = position(&transaction, self.projection).map_err(fault)?;
        transaction.commit().map_err(fault)?;
        Ok(position)
    }

    fn write(
        &mut self,
        expected: u64,
        checkpoint: u64,
        batch: &Statements,
    ) -> Result<(), TargetError> {
        // Immediate: one that becomes a writer later may find that another one is, and must begin again.
        let behavior = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behavior).map_err(fault)?;
        let (projection, from, to) =
            (self.projection, expected.cast_signed(), checkpoint.cast_signed());
        let sql = "UPDATE checkpoints SET position = ?3 WHERE projection = ?1 AND position = ?2";
        let moved = transaction.execute(sql, params![projection, from, to]).map_err(fault)?;
        if moved == 0 {
            // Dropped, the transaction is undone.
            let actual = position(&transaction, projection).map_err(fault)?;
            return Err(TargetError::Conflict { actual });
        }
        for (sql, values) in &batch.all {
            transaction.execute(sql, params_from_iter(values)).map_err(fault)?;
        }
        transaction.commit().map_err(fault)
    }
}

fn position(connection: &Connection, projection: &str) -> rusqlite::Result<u64> {
    let sql = "SELECT position FROM checkpoints WHERE projection = ?1";
    connection.query_row(sql, [projection], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
}

/// Another writer is waited for; nothing else becomes better by that.
fn fault(error: rusqlite::Error) -> TargetError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => TargetError::Transient(error.into()),
        _ => TargetError::Permanent(error.into()),
    }
}

/// A batch: statements, in the order in which they will be run.
#[derive(Debug, Default)]
pub struct Statements {
    all: Vec<(&'static str, Vec<Value>)>,
    mark: usize,
}

impl Statements {
    /// One more, with its parameters.
    pub fn add(&mut self, sql: &'static str, values: impl IntoIterator<Item = Value>) {
        self.all.push((sql, values.into_iter().collect()));
    }
}

impl Batch for Statements {
    fn mark(&mut self) {
        self.mark = self.all.len();
    }

    fn undo(&mut self) {
        self.all.truncate(self.mark);
    }
}

/// What is called takes a few milliseconds and has nothing to wait for, so it has no thread of its own.
impl Target for SqliteTarget {
    type Batch = Statements;

    async fn checkpoint(&mut self) -> Result<u64, TargetError> {
        self.prepare()
    }

    fn begin(&mut self) -> Statements {
        Statements::default()
    }

    async fn commit(
        &mut self,
        expected: u64,
        checkpoint: u64,
        batch: &mut Statements,
    ) -> Result<(), TargetError> {
        self.write(expected, checkpoint, batch)
    }
}
