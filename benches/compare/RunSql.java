import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/**
 * Runs a file of Flink SQL in a mini cluster within this process, and ends when its job has ended.
 *
 * <p>As Flink's SQL client does, it takes `SET 'KEY' = 'VALUE';`, and as its scripts often have it,
 * `${NAME}` is a variable of the environment. A statement ends with a semicolon before an empty line.
 */
public final class RunSql {
    private static final Pattern VARIABLE = Pattern.compile("\\$\\{(\\w+)}");
    private static final Pattern SETTING = Pattern.compile("SET '([^']*)' = '([^']*)'");

    public static void main(String[] arguments) throws Exception {
        String text = Files.readString(Path.of(arguments[0])).replaceAll("(?m)^--.*\\n", "");
        text = VARIABLE.matcher(text).replaceAll(name -> Matcher.quoteReplacement(variable(name.group(1))));
        var settings = new Configuration();
        var statements = new ArrayList<String>();
        for (String statement : text.strip().split(";\\s*\\n(?=\\s*\\n|SET|$)|;$")) {
            Matcher setting = SETTING.matcher(statement.strip());
            if (setting.matches()) {
                settings.setString(setting.group(1), setting.group(2));
            } else {
                statements.add(statement.strip());
            }
        }
        var tables = TableEnvironment.create(
            EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(settings).build());
        for (String statement : statements) {
            // Of a table definition there is nothing to wait for.
            tables.executeSql(statement.endsWith("END") ? statement + ";" : statement).await();
        }
    }

    private static String variable(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalArgumentException("the environment has no " + name);
        }
        return value;
    }
}
