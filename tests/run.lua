-- The same as `sbxlua test --verbose FILE...`.
os.exit(require("sbx.cli.test").run({ "--verbose", table.unpack(arg) }))
