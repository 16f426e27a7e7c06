import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.PartitionSpec;
import org.apache.iceberg.Schema;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.hadoop.HadoopCatalog;
import org.apache.iceberg.mapping.MappedField;
import org.apache.iceberg.mapping.NameMapping;
import org.apache.iceberg.mapping.NameMappingParser;
import org.apache.iceberg.types.Types;

/**
 * Makes the table that Kafka Connect writes taps to, below a folder.
 *
 * <p>The sink could make it, from what JSON tells: then a time is a text. And it could rename columns with
 * a transformation, which copies each record; a mapping of names does it on the way.
 */
public final class CreateTable {
    public static void main(String[] arguments) throws Exception {
        var schema = new Schema(
            Types.NestedField.required(1, "tap_id", Types.StringType.get()),
            Types.NestedField.required(2, "token_id", Types.StringType.get()),
            Types.NestedField.required(3, "stop_id", Types.StringType.get()),
            Types.NestedField.required(4, "device_id", Types.StringType.get()),
            Types.NestedField.required(5, "event_time", Types.TimestampType.withZone()),
            Types.NestedField.required(6, "mode", Types.StringType.get()),
            Types.NestedField.optional(7, "fare_cents", Types.LongType.get()),
            Types.NestedField.required(8, "_partition", Types.IntegerType.get()),
            Types.NestedField.required(9, "_offset", Types.LongType.get()),
            Types.NestedField.required(10, "_timestamp", Types.TimestampType.withZone()));
        var names = NameMapping.of(
            MappedField.of(1, "tapId"),
            MappedField.of(2, "tokenId"),
            MappedField.of(3, "stopId"),
            MappedField.of(4, "deviceId"),
            MappedField.of(5, "eventTime"),
            MappedField.of(6, "mode"),
            MappedField.of(7, "fareCents"),
            MappedField.of(8, "_partition"),
            MappedField.of(9, "_offset"),
            MappedField.of(10, "_timestamp"));
        try (var catalog = new HadoopCatalog(new Configuration(), arguments[0])) {
            catalog.createTable(
                TableIdentifier.parse(arguments[1]),
                schema,
                PartitionSpec.builderFor(schema).hour("event_time").build(),
                Map.of(
                    "schema.name-mapping.default", NameMappingParser.toJson(names),
                    "write.parquet.compression-codec", "zstd",
                    "write.parquet.compression-level", "1",
                    "write.target-file-size-bytes", Long.toString(128 << 20)));
        }
    }
}
