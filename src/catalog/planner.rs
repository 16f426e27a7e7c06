//! DataFusion's scalar expressions, of its own crates: what reads tables, plans joins or runs queries
//! is not in the tree.
//!
//! Owns: which functions there are, the settings that decide types, reading and binding an expression.
//! Does not own: what of it a model may use (`scalar`).

use super::surrogate_key;
use arrow::datatypes::DataType;
use datafusion_common::{
    DFSchema, DataFusionError, TableReference, config::ConfigOptions, plan_err,
};
use datafusion_expr::{
    AggregateUDF, Expr, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF,
    execution_props::ExecutionProps,
    physical_planning_context::PhysicalPlanningContext,
    planner::{ContextProvider, ExprPlanner},
};
use datafusion_functions::{
    core::planner::CoreFunctionPlanner, datetime::planner::DatetimeFunctionPlanner,
    unicode::planner::UnicodeFunctionPlanner,
};
use datafusion_functions_aggregate::planner::AggregateFunctionPlanner;
use datafusion_optimizer::simplify_expressions::{ExprSimplifier, SimplifyContext};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::{
    planner::{ParserOptions, PlannerContext, SqlToRel},
    sqlparser::ast::Expr as Ast,
};
use std::{collections::HashMap, sync::Arc};

/// Where expressions are read, checked and bound: the same for `catalog` and `compute`, since its
/// settings decide types. Instants are UTC; `1.5` is a numeric, as in PostgreSQL; text is `Utf8`.
pub struct Planner {
    options: Arc<ConfigOptions>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    functions: HashMap<String, Arc<ScalarUDF>>,
    /// Known, so that one inside of an expression is told by its name.
    aggregates: HashMap<String, Arc<AggregateUDF>>,
}

impl Default for Planner {
    fn default() -> Self {
        let mut options = ConfigOptions::new();
        options.execution.time_zone = Some("+00:00".to_owned());
        options.sql_parser.parse_float_as_decimal = true;
        options.sql_parser.map_string_types_to_utf8view = false;
        let mut functions = datafusion_functions::all_default_functions();
        functions.push(Arc::new(surrogate_key::function()));
        let aggregates = datafusion_functions_aggregate::all_default_aggregate_functions();
        Self {
            options: Arc::new(options),
            planners: vec![
                Arc::new(CoreFunctionPlanner::default()),
                Arc::new(DatetimeFunctionPlanner),
                Arc::new(UnicodeFunctionPlanner),
                Arc::new(AggregateFunctionPlanner),
            ],
            functions: by_name(functions, ScalarUDF::name, ScalarUDF::aliases),
            aggregates: by_name(aggregates, AggregateUDF::name, AggregateUDF::aliases),
        }
    }
}

fn by_name<F>(
    all: Vec<Arc<F>>,
    name: fn(&F) -> &str,
    aliases: fn(&F) -> &[String],
) -> HashMap<String, Arc<F>> {
    let mut named = HashMap::new();
    for function in all {
        for alias in aliases(&function) {
            named.insert(alias.clone(), Arc::clone(&function));
        }
        named.insert(name(&function).to_owned(), function);
    }
    named
}

impl Planner {
    /// What an expression in SQL means over these columns.
    pub fn read(&self, ast: &Ast, schema: &DFSchema) -> Result<Expr, DataFusionError> {
        let parser = ParserOptions::from(&self.options.sql_parser);
        let reader = SqlToRel::new_with_options(self, parser);
        reader.sql_to_expr(ast.clone(), schema, &mut PlannerContext::new())
    }

    /// With types that agree and constants computed. Not only for speed: functions such as
    /// coalesce exist for the simplifier alone, and `bind` does not call it.
    pub fn simplify(&self, expr: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
        let simplifier = self.simplifier(schema);
        simplifier.simplify(simplifier.coerce(expr, schema)?)
    }

    /// Ready to run on batches of these columns, with types that agree.
    pub fn bind(
        &self,
        expr: Expr,
        schema: &DFSchema,
    ) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let expr = self.simplifier(schema).coerce(expr, schema)?;
        create_physical_expr(
            &expr,
            schema,
            &ExecutionProps::new(),
            &PhysicalPlanningContext::default(),
        )
    }

    fn simplifier(&self, schema: &DFSchema) -> ExprSimplifier {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(Arc::clone(&self.options))
            .build();
        ExprSimplifier::new(context)
    }
}

impl ContextProvider for Planner {
    fn get_table_source(
        &self,
        name: TableReference,
    ) -> Result<Arc<dyn TableSource>, DataFusionError> {
        plan_err!("an expression reads columns alone, not the table {name}")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregates.get(name).cloned()
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.aggregates.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
